"""The Milvus sink of the embedded profile: it owns its Milvus Lite process and restarts it after failures.

A Milvus Lite that failed to write, for instance on a full disk, continues without what it could not write: it
acknowledges later rows that a restart loses, and forgets rows that it acknowledged before (seen with 3.2.2). Its log on
disk is sound. So after a failure it is killed and started again from its log (invariant 8).
"""

from collections.abc import Sequence
from contextlib import ExitStack

from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from consumers.milvus.errors import translate
from consumers.milvus.sink import MilvusSink
from consumers.sink import Change
from operations.milvus_lite.process import MilvusLiteUnavailable
from operations.wiring import System
from schema import collection
from schema.failures import Retryable
from schema.sinks import number_of


class RestartingMilvusSink:
    """The sink of an instance, of vectors with `dimension` numbers.

    It owns its Milvus Lite, restarted after failures; to a server it only reconnects.
    """

    takes_vectors = True
    takes_files = False

    def __init__(self, system: System, name: str, dimension: int) -> None:
        self.name = name
        self._dimension = dimension
        self._system = system
        self._opened = ExitStack()
        self._sink: MilvusSink | None = None

    def create(self) -> None:
        """Create the collection; the alias stays as it is."""
        self._open().create()

    def ensure(self) -> None:
        try:
            self._open().ensure()
        except MilvusLiteUnavailable as error:
            raise Retryable(str(error)) from error

    def apply(self, changes: Sequence[Change]) -> None:
        try:
            self._open().apply(changes)
        except MilvusLiteUnavailable as error:
            raise Retryable(str(error)) from error
        except Retryable:
            self._sink = None
            with self._opened:  # closed by an error, it kills Milvus Lite instead of stopping it
                raise

    def close(self) -> None:
        self._sink = None
        self._opened.close()

    def _load(self, client: MilvusClient) -> None:
        """A new Milvus Lite has loaded nothing, and a load under way would end with it after a failure."""
        settings = self._system.settings
        name, seconds = (
            collection.name_of(settings.collection_alias, number_of(self.name)),
            settings.store_timeout_seconds,
        )
        if settings.milvus_lite is not None and client.has_collection(name, timeout=seconds):
            client.load_collection(name, timeout=seconds)

    def _open(self) -> MilvusSink:
        if self._sink is None:
            with ExitStack() as opening:
                try:
                    client = opening.enter_context(self._system.milvus(own=True))
                    self._load(client)
                except MilvusException as error:
                    raise translate(error) from error
                self._opened = opening.pop_all()
            settings, system_id = self._system.settings, self._system.identity.system_id
            self._sink = MilvusSink(
                client,
                self._dimension,
                system_id,
                settings.collection_alias,
                name=self.name,
                is_serving=False,
                timeout_seconds=settings.store_timeout_seconds,
            )
        return self._sink
