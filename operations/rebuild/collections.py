"""The collections of the instances of Milvus, as a rebuild creates them, moves the alias, and drops them."""

from typing import TYPE_CHECKING, Any

from consumers.milvus import collection as milvus_collection
from consumers.milvus.collection import IndexRefused
from operations.sinks import milvus_sink
from operations.wiring import System
from schema import collection
from schema.failures import Retryable
from schema.retry import call_with_retry
from schema.sinks import RegisteredSink, number_of

if TYPE_CHECKING:
    from pymilvus import MilvusClient

_INDEX_SECONDS = 600.0  # for the index of what was written last


def collection_of(system: System, sink: str) -> str:
    return collection.name_of(system.settings.collection_alias, number_of(sink))


def create_collection(
    system: System, client: "MilvusClient", instance: RegisteredSink, index: dict[str, Any] | None
) -> None:
    """Create and load the collection of an instance that is not registered yet. Raises IndexRefused.

    One that an interrupted attempt has left is used, unless it has another index.
    """
    name, system_id = collection_of(system, instance.name), system.identity.system_id
    if milvus_collection.exists(client, name) and not _has_index(client, name, index):
        milvus_collection.drop(client, name, system_id)
    try:
        milvus_sink(system, client, instance, index).create()
    except IndexRefused:
        milvus_collection.drop(client, name, system_id)
        raise


def serve(system: System, client: "MilvusClient", sink: str) -> bool:
    """Let searches use this instance; it shows what was written before. Returns whether they used another one."""
    from operations.reconcile.milvus_rows import MilvusRows

    name = collection_of(system, sink)
    MilvusRows(client, name, sink).load()
    return milvus_collection.point_alias(client, system.settings.collection_alias, name, system.identity.system_id)


def wait_for_index(system: System, client: "MilvusClient", sink: str) -> None:
    """Wait until the index of the vectors is built for every sealed segment. Raises Retryable."""

    def check() -> None:
        described = client.describe_index(
            collection_of(system, sink), "vector", timeout=milvus_collection.TIMEOUT_SECONDS
        )
        waiting = int(described.get("pending_index_rows") or 0)
        if described.get("state") == "Failed":
            raise IndexRefused(f"Milvus cannot build the index: {described.get('index_state_fail_reason', '')}")
        if waiting:
            raise Retryable(f"Milvus has not indexed {waiting} rows yet")

    call_with_retry(check, seconds=_INDEX_SECONDS)


def drop_collection(system: System, client: "MilvusClient", sink: str) -> None:
    milvus_collection.drop(client, collection_of(system, sink), system.identity.system_id)


def _has_index(client: "MilvusClient", name: str, index: dict[str, Any] | None) -> bool:
    """Whether the vectors have this index, or none yet. Milvus Lite tells only its type."""
    if not client.list_indexes(name, "vector", timeout=milvus_collection.TIMEOUT_SECONDS):
        return True
    wanted = index or {"index_type": "HNSW", "params": collection.HNSW}
    found = client.describe_index(name, "vector", timeout=milvus_collection.TIMEOUT_SECONDS)
    return found["index_type"] == wanted["index_type"] and all(
        str(found.get(key, value)) == str(value) for key, value in wanted["params"].items()
    )
