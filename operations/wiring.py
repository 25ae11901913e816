"""Opens the stores that the settings name: the one place that chooses an implementation for each port.

Clients and numpy are imported only by the methods that need them: they take most of the start of a process.
"""

import copy
import getpass
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy import Engine, select
from sqlalchemy.exc import ArgumentError

from operations.errors import OperationError
from operations.milvus_lite import process as milvus_lite
from operations.settings import PREFIX, Settings, SettingsError
from operations.transient_errors import note_transient_errors
from schema.database import revision
from schema.database.connection import connect, reading
from schema.database.history import Identity, NotInitialised, read_identity
from schema.database.tables import sinks
from schema.failures import Retryable
from schema.kafka.names import Names
from schema.limits import OPERATOR_CHARACTERS
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import ObjectStore
from schema.outage import Outage
from schema.retry import Backoff, call_with_retry

if TYPE_CHECKING:
    from pymilvus import MilvusClient

    from producer import Writer
    from producer.processing.embed.port import Embedder

T = TypeVar("T")
_BACKOFF = Backoff(0.5, 1.0)
_START_BACKOFF = Backoff(0.5, 5.0)
_log = logging.getLogger(__name__)
_CONNECT_SECONDS = 5.0  # to Milvus, for the first and every later connection


class System:
    """The stores of one system. The constructor connects to none of them; each is opened at its first use."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.retries: Counter[str] = Counter()  # transient errors of the database, by code
        self._named_operator: str | None = None

    @cached_property
    def identity(self) -> Identity:
        """The identity of the system, read once. Raises NotInitialised."""
        with reading(self.engine) as connection:
            return read_identity(connection)

    @property
    def names(self) -> Names:
        """The names in Kafka. Raises NotInitialised."""
        return Names(self.settings.namespace, self.identity.system_id)

    @cached_property
    def store(self) -> ObjectStore:
        return open_object_store(self.settings)

    @property
    def operator(self) -> str:
        """Who runs this command, for `operation_logs`."""
        return (self._named_operator or _operator())[:OPERATOR_CHARACTERS]

    def acting_as(self, operator: str) -> "System":
        """The same stores, changed by somebody who does not own this process."""
        other = copy.copy(self)
        other._named_operator = operator
        return other

    def writer(self) -> "Writer":
        from producer import Writer

        return Writer(self.settings.embedding_model, operator=self.operator)

    @cached_property
    def embedder(self) -> "Embedder | None":
        """Makes the vectors of the system from text; None if the settings name nothing that does."""
        from operations.embedders import make_embedder

        return make_embedder(self.settings, self.engine, lambda: self.store)

    def require_embedder(self) -> "Embedder":
        """The embedder of the system's model. Raises SettingsError if there is none, WrongModel if it is another's."""
        if self.embedder is None:
            raise SettingsError(
                f"{PREFIX}EMBEDDER: nothing embeds text here for the model {self.settings.embedding_model!r}: set "
                "wordllama, bge-m3 or openai, or write documents with their vectors"
            )
        with reading(self.engine) as connection:
            found = read_identity(connection)  # a rebuild may have changed the model since this process started
        if found.embedding_model != self.embedder.model:
            raise _wrong_model(found, self.settings)
        return self.embedder

    @contextmanager
    def milvus(self, *, own: bool) -> "Iterator[MilvusClient]":
        """Connect to Milvus. With `own`, a Milvus Lite serves this context alone; otherwise other commands share it."""
        with ExitStack() as stack:
            uri, lite = self.settings.milvus_uri, self.settings.milvus_lite
            if lite is not None:
                serve = milvus_lite.own if own else milvus_lite.share
                uri = stack.enter_context(serve(lite))
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException

            logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs every error that it raises
            token = self.settings.milvus_token
            seconds = min(_CONNECT_SECONDS, self.settings.store_timeout_seconds)
            try:
                client = MilvusClient(uri, token=token.get_secret_value() if token else "", timeout=seconds)
            except MilvusException as error:
                if lite is None:
                    raise type(error)(error.code, f"{error.message} ({PREFIX}MILVUS_URI)") from error
                raise
            stack.callback(client.close)
            yield client

    def with_milvus(self, work: "Callable[[MilvusClient], T]") -> T:
        """Call `work` with a client; repeat it if Milvus fails: a shared Milvus Lite may end. Returns its result."""
        from pymilvus.exceptions import MilvusException

        def once() -> T:
            with self.milvus(own=False) as client:
                return work(client)

        failures = (MilvusException, Retryable)
        return call_with_retry(once, retry_on=lambda error: isinstance(error, failures), backoff=_BACKOFF, attempts=4)

    def with_own_collection(self, work: "Callable[[MilvusClient], T]") -> T:
        """`with_milvus`, for a collection that `init` has created. Raises OtherSystem if it is not of this system."""
        from consumers.milvus.collection import require_own

        def checked(client: "MilvusClient") -> T:
            require_own(client, self.settings.collection_alias, self.identity.system_id, is_alias=True)
            return work(client)

        return self.with_milvus(checked)


@contextmanager
def open_system(
    settings: Settings,
    *,
    initialised: bool = True,
    has_limit: bool = True,
    wait_until: threading.Event | None = None,
) -> Iterator[System]:
    """Open the metadata database; `has_limit`: a call of it fails after `database_timeout_seconds` without an answer.

    With `initialised`, raises WrongRevision or WrongModel if `init` must run first, SettingsError if the settings have
    another namespace than the system. With `wait_until`, waits for a database that is away until this event is set.
    """
    engine = _engine(settings, settings.database_timeout_seconds if has_limit else None)
    if initialised:
        _require_file(settings)
    try:
        system = System(settings, engine)
        note_transient_errors(engine, lambda code: system.retries.update([code]))
        if initialised and wait_until is not None:
            wait_for_dependency(lambda: require_initialised(system), "database", wait_until)
        elif initialised:
            require_initialised(system)
        yield system
    finally:
        engine.dispose()


def wait_for_dependency(check: Callable[[], object], name: str, stop: threading.Event) -> None:
    """Check again until it succeeds; what fails is logged at once and once per minute.

    Raises an error that is not transient, and the last one once `stop` is set.
    """
    outage = Outage(
        lambda reason, seconds: _log.warning("start_waits for=%s seconds=%.0f reason=%s", name, seconds, reason),
        lambda seconds: _log.warning("start_continues for=%s seconds=%.1f", name, seconds),
    )

    def note(error: BaseException, _seconds: float) -> None:
        outage.note_failure(getattr(error, "orig", None) or error)

    call_with_retry(check, backoff=_START_BACKOFF, stop=stop, report=note)
    outage.note_success()


def require_initialised(system: System) -> None:
    """Raises WrongRevision, WrongModel or SettingsError unless the settings fit the system in the database."""
    with reading(system.engine) as connection:
        revision.require_compatible(connection)
    _require_model(system)
    _require_namespace(system)


def _engine(settings: Settings, timeout_seconds: float | None) -> Engine:
    # A client that vanished must not keep its locks: no transaction here is idle for as long as a call may take.
    idle_seconds = None if timeout_seconds is None else 2 * timeout_seconds
    url = settings.database
    try:
        engine = connect(url, timeout_seconds=timeout_seconds, idle_seconds=idle_seconds)
    except (ArgumentError, TypeError):  # TypeError: an option after the question mark is unknown
        raise SettingsError(f"{PREFIX}DATABASE_URL: not a usable SQLAlchemy URL") from None
    if url.get_backend_name() == "sqlite" and url.database:
        _require_folder(Path(url.database).parent, settings)
    return engine


def _require_file(settings: Settings) -> None:
    """SQLite would create the file that is missing, and `backup restore` would not replace it."""
    url = settings.database
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        raise revision.WrongRevision(f"there is no database {url.database}: run rag-outbox init, or restore a backup")


def _require_folder(folder: Path, settings: Settings) -> None:
    if not folder.is_dir():
        if settings.database_url is not None:
            raise SettingsError(f"{PREFIX}DATABASE_URL: there is no folder {folder}")
        raise revision.WrongRevision(f"nothing is initialised in {settings.data_dir}: run rag-outbox init")
    if not os.access(folder, os.W_OK):  # SQLite writes files next to its own even to read
        raise OperationError(f"the folder {folder} cannot be written to")


def _require_model(system: System) -> None:
    """While a rebuild changes the model, a process may name either one: all need not be restarted at one moment."""
    from producer import WrongModel

    settings = system.settings
    try:
        found = system.identity
    except NotInitialised as error:
        raise WrongModel(str(error)) from None
    ours = (settings.embedding_model, settings.vector_dimension)
    if ours == (found.embedding_model, found.dimension):
        return
    with reading(system.engine) as connection:
        options = connection.execute(select(sinks.c.options).where(sinks.c.state != "leaving")).scalars()
        models = [given["model"] for given in options if given and "model" in given]
    if ours not in [(model["embedding_model"], model["vector_dimension"]) for model in models]:
        raise _wrong_model(found, settings)
    _log.warning("settings_name_other_model model=%s system=%s", settings.embedding_model, found.embedding_model)


def _wrong_model(found: Identity, settings: Settings) -> Exception:
    from producer import WrongModel

    return WrongModel(
        f"the model of the system is {found.embedding_model!r} of {found.dimension} dimensions, the settings name "
        f"{settings.embedding_model!r} of {settings.vector_dimension}: correct {PREFIX}EMBEDDER or "
        f"{PREFIX}EMBEDDING_MODEL; to change the model of the system: rag-outbox rebuild milvus --embedder"
    )


def _require_namespace(system: System) -> None:
    """With another one, a process would find no stores, or `init` would make a second set of them."""
    ours, found = system.settings.namespace, system.identity.namespace
    if ours != found:
        raise SettingsError(f"{PREFIX}NAMESPACE: the namespace of this system is {found!r}, not {ours!r}")


def open_object_store(settings: Settings) -> ObjectStore:
    """The bucket that the settings name, which may not exist yet. Raises SettingsError."""
    if settings.objects is not None:
        return DirectoryStore(settings.objects)
    from schema.object_store import s3

    secret = settings.object_store_secret_key
    client = s3.connect(
        settings.object_store or "",
        settings.object_store_access_key,
        secret.get_secret_value() if secret else None,
        timeout_seconds=settings.store_timeout_seconds,
    )
    return s3.S3Store(client, settings.bucket)


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        return "unknown"
