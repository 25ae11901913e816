"""A service with an async engine: a row of its own table and the document commit in one transaction.

Start it with `uvicorn --factory examples.async_service.service:create_app`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import String
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from producer import ApplyFailed, Chunk, Document, InvalidDocument, NotApplied, Receipt, WriteConflict, Writer
from producer.processing.embed.port import EmbedError
from producer.processing.embed.wordllama import WordLlamaEmbedder
from schema.retry import Backoff, is_transient

DATABASE_URL = "sqlite+aiosqlite:///rag-outbox-data/metadata.db"  # where `rag-outbox init` makes it if nothing is set
ATTEMPTS, BACKOFF = 5, Backoff(0.05, 1.0)


class Base(DeclarativeBase):
    pass


class Note(Base):
    """The service's own table, in the database that also holds rag-outbox's tables."""

    __tablename__ = "notes"

    note_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    author: Mapped[str] = mapped_column(String(255))


class NoteIn(BaseModel):
    author: str = Field(max_length=255)
    text: str = Field(min_length=1)


def create_app(database_url: str | None = None) -> FastAPI:
    """The service. `rag-outbox init` must have made the database."""
    engine = create_async_engine(database_url or os.environ.get("NOTES_DATABASE_URL", DATABASE_URL))
    sessions = async_sessionmaker(engine)
    embedder = WordLlamaEmbedder()
    writer = Writer(embedder.model, operator="notes")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        yield
        await engine.dispose()

    app = FastAPI(title="Notes", lifespan=lifespan)

    async def write(note: Note, document: Document) -> Receipt:
        async with sessions() as session, session.begin():
            await session.merge(note)
            return await session.run_sync(lambda session: writer.upsert(session, document))

    @app.put("/notes/{note_id}")
    async def put(
        note_id: str, note: NoteIn, response: Response, wait_seconds: Annotated[float, Query(ge=0, le=60)] = 0
    ) -> dict[str, Any]:
        """Write a note. With `wait_seconds`, answer when every store holds it: 200, or 202 when one does not."""
        try:
            [vector] = await asyncio.to_thread(embedder.embed, [note.text])
            document = Document(
                doc_id=note_id, title=note_id, source_type="text", chunks=[Chunk(content=note.text, vector=vector)]
            )
            receipt = await again(lambda: write(Note(note_id=note_id, author=note.author), document))
        except (InvalidDocument, EmbedError) as error:
            raise HTTPException(422, str(error)) from error
        is_held = wait_seconds > 0 and await asyncio.to_thread(wait, receipt, wait_seconds)  # it blocks
        response.status_code = 200 if is_held else 202
        return {"version": receipt.version, "changed": receipt.changed, "held": is_held}

    return app


def wait(receipt: Receipt, seconds: float) -> bool:
    """Whether every store holds the version within `seconds`."""
    try:
        receipt.wait(timeout_seconds=seconds)
    except NotApplied:
        return False
    except ApplyFailed as error:
        raise HTTPException(502, str(error)) from error
    return True


async def again(write: Callable[[], Awaitable[Receipt]]) -> Receipt:
    """Run the transaction again after a deadlock, a lost connection, or another writer of the same new document."""
    for attempt in range(1, ATTEMPTS):
        try:
            return await write()
        except (WriteConflict, DBAPIError) as error:
            if not isinstance(error, WriteConflict) and not is_transient(error):
                raise
        await asyncio.sleep(BACKOFF.seconds(attempt))
    return await write()
