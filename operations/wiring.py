"""The stores that the settings name, opened: the one place that knows which implementation stands behind which port.

What only some commands need is imported when they do: a client or numpy takes a good part of a process's start.
"""

import getpass
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Engine, make_url, select
from sqlalchemy.exc import ArgumentError

from operations import transient_error_counts
from operations.errors import OperationError
from operations.milvus_lite import process as milvus_lite
from operations.settings import PREFIX, Settings, SettingsError
from schema.database import revision
from schema.database.connection import connect, reading
from schema.database.tables import embedding_model
from schema.failures import Retryable
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import ObjectStore
from schema.retry import Backoff, call_with_retry

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from producer import Writer
    from producer.processing.embed.port import Embedder

T = TypeVar("T")
_BACKOFF = Backoff(0.5, 1.0)
_CONNECT_SECONDS = 5.0  # to Milvus, at first and after every break


class System:
    """The metadata database; the object store and Milvus are opened for those who need them."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.retries = transient_error_counts.count_transient_errors(engine)

    @cached_property
    def store(self) -> ObjectStore:
        return _object_store(self.settings)

    def writer(self) -> "Writer":
        from producer import Writer

        return Writer(self.settings.embedding_model, operator=_operator())

    @cached_property
    def embedder(self) -> "Embedder | None":
        """What makes the system's vectors from text; None when that model is not one of ours."""
        from producer.processing.embed.wordllama import WordLlamaEmbedder

        ours = WordLlamaEmbedder()
        return ours if ours.model == self.settings.embedding_model else None

    def require_embedder(self) -> "Embedder":
        """Raises SettingsError when there is none."""
        from producer.processing.embed.wordllama import WordLlamaEmbedder

        if self.embedder is None:
            raise SettingsError(
                f"{PREFIX}EMBEDDING_MODEL: text can be embedded with {WordLlamaEmbedder.model!r} only, "
                f"not with {self.settings.embedding_model!r}; write documents with their vectors instead"
            )
        return self.embedder

    @contextmanager
    def milvus(self, *, own: bool) -> "Iterator[MilvusClient]":
        """A client of Milvus; of a Milvus Lite that lives as long as this context (`own`), or shared with others."""
        with ExitStack() as stack:
            uri = self.settings.milvus_uri
            if self.settings.milvus_lite is not None:
                serve = milvus_lite.own if own else milvus_lite.share
                uri = stack.enter_context(serve(self.settings.milvus_lite))
            from pymilvus import MilvusClient

            logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs every error that it also raises
            token = self.settings.milvus_token
            client = MilvusClient(uri, token=token.get_secret_value() if token else "", timeout=_CONNECT_SECONDS)
            stack.callback(client.close)
            yield client

    def with_milvus(self, work: "Callable[[MilvusClient], T]") -> T:
        """What `work` returns; it starts over when Milvus fails, since a shared Milvus Lite may end at any moment."""
        from pymilvus.exceptions import MilvusException

        def once() -> T:
            with self.milvus(own=False) as client:
                return work(client)

        failures = (MilvusException, Retryable)
        return call_with_retry(once, retry_on=lambda error: isinstance(error, failures), backoff=_BACKOFF, attempts=4)


@contextmanager
def open_system(settings: Settings, *, initialised: bool = True) -> Iterator[System]:
    """The system of these settings. Raises SchemaOutdated or WrongModel unless `rag-outbox init` made it so."""
    engine = _engine(settings)
    try:
        if initialised:
            revision.require_current(engine)
            _require_model(engine, settings)
        yield System(settings, engine)
    finally:
        engine.dispose()


def _engine(settings: Settings) -> Engine:
    try:
        url = make_url(settings.database)
        engine = connect(settings.database)
    except (ArgumentError, ImportError, ValueError):  # a port that is no number
        raise SettingsError(f"{PREFIX}DATABASE_URL: not a usable SQLAlchemy URL") from None
    if url.get_backend_name() == "sqlite" and url.database:
        _require_folder(Path(url.database).parent, settings)
    return engine


def _require_folder(folder: Path, settings: Settings) -> None:
    if not folder.is_dir():
        if settings.database_url is not None:
            raise SettingsError(f"{PREFIX}DATABASE_URL: there is no folder {folder}")
        raise revision.SchemaOutdated(f"nothing is initialised in {settings.data_dir}: run rag-outbox init")
    if not os.access(folder, os.W_OK):  # SQLite writes beside its file even to read it
        raise OperationError(f"the folder {folder} cannot be written to")


def _require_model(engine: Engine, settings: Settings) -> None:
    with reading(engine) as connection:
        row = connection.execute(select(embedding_model.c.name, embedding_model.c.dimension)).one_or_none()
    if row is None:
        wrong = "the system has no embedding model yet: run rag-outbox init"
    elif (row.name, row.dimension) != (settings.embedding_model, settings.vector_dimension):
        wrong = (
            f"the system was initialised with {row.name!r} of {row.dimension} dimensions, the settings name "
            f"{settings.embedding_model!r} of {settings.vector_dimension}; a change of model is a rebuild"
        )
    else:
        return
    from producer import WrongModel

    raise WrongModel(wrong)


def _object_store(settings: Settings) -> ObjectStore:
    if settings.objects is not None:
        return DirectoryStore(settings.objects)
    from schema.object_store import s3

    secret = settings.object_store_secret_key
    client = s3.connect(
        settings.object_store or "", settings.object_store_access_key, secret.get_secret_value() if secret else None
    )
    return s3.S3Store(client, settings.object_store_bucket)


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"
