"""The collections of the instances of Milvus, as a rebuild creates them, moves the alias, and drops them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from consumers.milvus import collection as milvus_collection
from consumers.milvus.collection import IndexRefused
from operations import sinks
from operations.rebuild.errors import NotPossible
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
    system: System, client: "MilvusClient", instance: RegisteredSink, options: Mapping[str, Any]
) -> None:
    """Create and load the collection of an instance that is not registered yet. Raises IndexRefused, NotPossible.

    One that is there already is dropped: an interrupted attempt has left it, or a system from before a restore.
    """
    name, system_id = collection_of(system, instance.name), system.identity.system_id
    if milvus_collection.exists(client, name):
        if any(one.name == instance.name for one in sinks.read_all(system)):
            raise NotPossible(f"another command has begun to build {instance.name}: run this one again to continue it")
        milvus_collection.drop(client, name, system_id)
    try:
        milvus_sink(system, client, instance, options).create()
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
