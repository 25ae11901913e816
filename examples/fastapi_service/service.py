"""A service that keeps articles: a row of its own table and the document commit in one transaction.

Start it with `uvicorn --factory examples.fastapi_service.service:create_app`.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from producer import ApplyFailed, Backpressure, Chunk, Document, InvalidDocument, NotApplied, Receipt, Writer, run
from producer.processing.embed.port import EmbedError
from producer.processing.embed.wordllama import WordLlamaEmbedder
from schema.database.connection import connect

DATABASE_URL = "sqlite:///rag-outbox-data/metadata.db"  # where `rag-outbox init` makes it when nothing is set


class Base(DeclarativeBase):
    pass


class Article(Base):
    """The service's own table, in the database that also holds rag-outbox's tables."""

    __tablename__ = "articles"

    article_id: Mapped[str] = mapped_column(String(64), primary_key=True)
    title: Mapped[str] = mapped_column(String(255), unique=True)
    author: Mapped[str] = mapped_column(String(255))


class ArticleIn(BaseModel):
    title: str = Field(max_length=255)
    author: str = Field(max_length=255)
    text: str = Field(min_length=1)


def create_app(database_url: str | None = None) -> FastAPI:
    """The service. `rag-outbox init` must have made the database."""
    engine = connect(database_url or os.environ.get("RAG_OUTBOX_DATABASE_URL", DATABASE_URL))
    sessions = sessionmaker(engine)
    embedder = WordLlamaEmbedder()
    writer = Writer(embedder.model, operator="articles")
    Base.metadata.create_all(engine)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.dispose()

    app = FastAPI(title="Articles", lifespan=lifespan)

    @app.put("/articles/{article_id}")
    def put(
        article_id: str,
        article: ArticleIn,
        response: Response,
        wait_seconds: Annotated[float, Query(ge=0, le=60)] = 0,
    ) -> dict[str, Any]:
        """Write an article. With `wait_seconds`, answer when every store holds it: 200, or 202 when one does not."""
        chunks = [Chunk(content=paragraph) for paragraph in article.text.split("\n\n") if paragraph.strip()]
        document = Document(doc_id=article_id, title=article.title, source_type="text", chunks=chunks)

        def write(session: Session) -> Receipt:
            session.merge(Article(article_id=article_id, title=article.title, author=article.author))
            return writer.upsert(session, document, embedder=embedder, transaction_context={"author": article.author})

        try:
            receipt = run(sessions, write)  # embeds new paragraphs, and no others, while no lock is held
        except (InvalidDocument, EmbedError) as error:
            raise HTTPException(422, str(error)) from error
        except IntegrityError as error:
            raise HTTPException(409, "another article has this title") from error
        except Backpressure as error:
            raise HTTPException(503, str(error)) from error
        searchable = wait_seconds > 0 and wait(receipt, wait_seconds)
        response.status_code = 200 if searchable else 202
        return {"version": receipt.version, "changed": receipt.changed, "searchable": searchable}

    @app.delete("/articles/{article_id}", status_code=204)
    def delete(article_id: str) -> None:
        """Delete an article, from the service's table and from every store."""

        def delete_both(session: Session) -> None:
            article = session.get(Article, article_id)
            if article is None:
                raise HTTPException(404, "no such article")
            session.delete(article)
            writer.delete(session, article_id)

        run(sessions, delete_both)

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
