"""The console on the stores of a pipeline: as an application for a test client, and served for a browser."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from html import unescape
from pathlib import Path
from typing import Any

from httpx import Response
from litestar.testing import TestClient
from pymilvus import MilvusClient
from sqlalchemy import Engine, insert

from operations.settings import Settings
from operations.web.console.access import Access
from operations.web.console.app import make_app
from operations.web.console.checks import Checks
from operations.web.console.console import Console
from operations.web.console.live import Sampler
from operations.web.console.sessions import Sessions
from operations.wiring import System
from schema.database.tables import outbox_dead_letters
from schema.object_store.port import ObjectStore
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, vector

TOKEN = "correct horse battery staple"
TOKEN_SHA256 = hashlib.sha256(TOKEN.encode()).hexdigest()
ORIGIN = "http://127.0.0.1:9480"


class TestEmbedder:
    """The vectors of the pipeline's documents."""

    __test__ = False
    model = MODEL
    dimension = DIMENSION

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [vector(text) for text in texts]


class ConsoleSystem(System):
    """A system with the stores of a test."""

    def __init__(self, engine: Engine, store: ObjectStore, data_dir: Path, milvus: MilvusClient | None = None) -> None:
        super().__init__(Settings(data_dir=data_dir, embedding_model=MODEL, vector_dimension=DIMENSION), engine)
        self._store = store
        self._milvus = milvus

    @classmethod
    def of(cls, pipeline: Pipeline, data_dir: Path) -> "ConsoleSystem":
        return cls(pipeline.engine, pipeline.store, data_dir, pipeline.milvus)

    @cached_property
    def store(self) -> ObjectStore:
        return self._store

    @cached_property
    def embedder(self) -> Any:
        return TestEmbedder()

    @contextmanager
    def milvus(self, *, own: bool) -> Iterator[MilvusClient]:
        assert self._milvus is not None
        yield self._milvus


class Browser:
    """A client that keeps cookies, follows redirects and sends our origin with forms, as a browser does."""

    def __init__(self, client: TestClient[Any], console: Console) -> None:
        self.client = client
        self.console = console

    def get(self, path: str, **headers: str) -> Response:
        return self.client.get(path, headers=headers)

    def page(self, path: str) -> str:
        """The HTML of a page that must be there."""
        found = self.get(path)
        assert found.status_code == 200, (found.status_code, words(found.text))
        return found.text

    def post(self, path: str, fields: dict[str, Any], **headers: str) -> Response:
        return self.client.post(path, data=fields, headers={"origin": ORIGIN} | headers)

    def sign_in(self, operator: str = "operator-1") -> None:
        answer = self.post("/session", {"operator": operator, "token": TOKEN, "next": "/"})
        assert answer.status_code == 200, words(answer.text)

    def submit(self, page: str, action: str, **changed: Any) -> Response:
        """Send the form of a page that goes to `action`, with its hidden fields."""
        [form] = re.findall(rf'<form[^>]* action="{re.escape(action)}".*?</form>', page, re.DOTALL)
        hidden: dict[str, Any] = {}
        for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form):
            hidden.setdefault(name, []).append(unescape(value))
        return self.post(action, hidden | changed)


@contextmanager
def browsing(system: System, *, token: bool = True, access: Access | None = None) -> Iterator[Browser]:
    """A client of a console on this machine; its sampler has looked once."""
    sampler = Sampler(system)
    sampler.look()
    sessions = Sessions(TOKEN_SHA256 if token else None)
    console = Console(system, sampler, Checks(), sessions, access or Access(True), "session")
    with TestClient(make_app(console), base_url=ORIGIN) as client:
        yield Browser(client, console)
    console.checks.stop(10)


def words(html: str) -> str:
    """What a reader sees of a page."""
    body = html.partition("<main")[2].partition(">")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def refuse(engine: Engine, doc_id: str, error: str = "vector has 7 numbers", stage: str = "milvus") -> int:
    """A dead letter of the document, as a consumer stores it."""
    values = {
        "stage": stage,
        "outbox_id": 0,
        "event_id": f"{stage}-{doc_id}",
        "aggregate_type": "document",
        "aggregate_id": doc_id,
        "aggregate_version": 1,
        "event_type": "rag.document.upserted.v1",
        "content_type": "application/msgpack",
        "payload": b"broken",
        "error": error,
        "attempts": 1,
    }
    with engine.begin() as connection:
        made = connection.execute(insert(outbox_dead_letters).values(values)).inserted_primary_key
        assert made is not None
        return int(made[0])
