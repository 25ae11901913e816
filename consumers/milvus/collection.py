"""The collection of an instance, created with the fields and indexes that the server accepts.

A crash at any step does no harm: a step whose result exists is skipped, and the alias, by which searches find the
collection that serves, comes last. Concurrent processes do no harm either: a server accepts the same request twice;
Milvus Lite answers with an error, and the next attempt finds the step done.
"""

import logging
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from pymilvus import CollectionSchema, DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from consumers.milvus.errors import translate
from schema import collection, ownership
from schema.failures import Permanent, StoreMissing
from schema.ownership import OtherSystem

TIMEOUT_SECONDS: Final = 30.0  # per request; the client's default retries for many minutes
TYPES: Final = {
    "varchar": DataType.VARCHAR,
    "int64": DataType.INT64,
    "vector": DataType.FLOAT_VECTOR,
    "sparse": DataType.SPARSE_FLOAT_VECTOR,
}
_PRIMARY = collection.FIELDS[0]
_ALIAS_EXISTS = 1602  # Milvus 2.3 keeps the alias of a collection that was dropped
_UNEXPECTED = 65535  # code of an index parameter that is out of range, among others
_LITE_VERSION = "milvus_lite"
_log = logging.getLogger(__name__)


class IndexRefused(Permanent):
    """Raised when Milvus refuses the index of the vectors that was asked for; the message has its reason."""


def create(
    client: MilvusClient, dimension: int, name: str, system_id: str, index: Mapping[str, Any] | None = None
) -> None:
    """Create a collection of this system, unless there is one. `index` is that of the vectors.

    Without `index` it is HNSW, and FLAT in Milvus Lite, which serves small collections and filters a graph badly.

    Raises OtherSystem if the collection is there and not of this system. Milvus creates a collection with its system id
    in one step, so of two systems only one gets it. Raises IndexRefused.
    """
    if not exists(client, name):
        _create(client, name, dimension, system_id)
    require_own(client, name, system_id)
    stored = stored_fields(client, name)
    for field in collection.FIELDS:
        if field.name in stored:
            wanted = index or _default_index(client) if field.kind == "vector" else None
            _index(client, name, field, wanted)


def point_alias(client: MilvusClient, alias: str, name: str, system_id: str) -> bool:
    """Let searches find this collection. Returns whether they found another one, or none. Raises OtherSystem."""
    if not exists(client, alias):
        try:
            client.create_alias(name, alias, timeout=TIMEOUT_SECONDS)
        except MilvusException as error:
            if error.code != _ALIAS_EXISTS:
                raise
            client.alter_alias(name, alias, timeout=TIMEOUT_SECONDS)
        return True
    require_own(client, alias, system_id)
    if target_of(client, alias) == name:
        return False
    client.alter_alias(name, alias, timeout=TIMEOUT_SECONDS)
    return True


def target_of(client: MilvusClient, alias: str) -> str:
    """The collection that the alias points to."""
    return str(client.describe_collection(alias, timeout=TIMEOUT_SECONDS)["collection_name"])


def drop(client: MilvusClient, name: str, system_id: str) -> None:
    """Drop a collection of this system, if there is one. Raises OtherSystem."""
    if exists(client, name):
        require_own(client, name, system_id)
        client.drop_collection(name, timeout=TIMEOUT_SECONDS)


def stored_fields(
    client: MilvusClient, name: str, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, dict[str, Any]]:
    """Field name → its parameters in the server."""
    described = client.describe_collection(name, timeout=timeout_seconds)
    return {field["name"]: field["params"] for field in described["fields"]}


def require_own(
    client: MilvusClient,
    name: str,
    system_id: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
    *,
    is_alias: bool = False,
) -> None:
    """Raises OtherSystem unless the collection of this name, or behind this alias, is of this system.

    Raises StoreMissing if there is none.
    """
    if not exists(client, name, timeout_seconds):
        raise missing_alias(name) if is_alias else missing(name)
    described = client.describe_collection(name, timeout=timeout_seconds)
    store, separate = f"the Milvus collection {name}", "RAG_OUTBOX_NAMESPACE or Milvus database"
    owner = described["properties"].get(collection.SYSTEM_ID_PROPERTY)
    if owner is None:
        raise OtherSystem(f"{store} has no system id, so rag-outbox init did not create it: set another {separate}")
    ownership.require_own(store, owner, system_id, separate=separate)


def missing(name: str) -> StoreMissing:
    return StoreMissing(f"there is no Milvus collection {name}: run rag-outbox init")


def missing_alias(alias: str) -> StoreMissing:
    return StoreMissing(f"there is no Milvus collection behind the alias {alias}: run rag-outbox init")


def exists(client: MilvusClient, name: str, timeout_seconds: float = TIMEOUT_SECONDS) -> bool:
    """Whether there is a collection of this name, or behind this alias."""
    return bool(client.has_collection(name, timeout=timeout_seconds))


def _is_refused(request: Callable[[], object]) -> bool:
    """Whether the server refuses the request for good; raises when it may accept it later."""
    try:
        request()
    except MilvusException as error:
        if isinstance(translate(error), Permanent):
            return True
        raise
    return False


def _create(client: MilvusClient, name: str, dimension: int, system_id: str) -> None:
    fields: tuple[collection.Field, ...] = collection.FIELDS
    if not _takes_sparse(client, name):
        fields = tuple(field for field in fields if field.kind != "sparse")
        _log.warning("this Milvus takes no sparse weights: they are left out of the collection %s", name)
    owner = {collection.SYSTEM_ID_PROPERTY: system_id}
    client.create_collection(name, schema=_schema(fields, dimension), properties=owner, timeout=TIMEOUT_SECONDS)


def _takes_sparse(client: MilvusClient, name: str) -> bool:
    """Test it on a temporary collection: Milvus 2.3 takes the field, refuses its index, and dies when loading it."""
    probe = f"{name}_probe_{uuid.uuid4().hex}"
    [sparse] = [field for field in collection.FIELDS if field.kind == "sparse"]
    schema = _schema((_PRIMARY, sparse), 0)
    if _is_refused(lambda: client.create_collection(probe, schema=schema, timeout=TIMEOUT_SECONDS)):
        return False
    try:
        return not _is_refused(lambda: _create_index(client, probe, sparse, **_kinds(sparse)[0]))
    finally:
        client.drop_collection(probe, timeout=TIMEOUT_SECONDS)


def _schema(fields: tuple[collection.Field, ...], dimension: int) -> CollectionSchema:
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    for field in fields:
        given: dict[str, Any] = {}
        if field.kind == "vector":
            given = {"dim": dimension}
        elif field.kind == "varchar":
            given = {"max_length": field.max_length, "is_primary": field is _PRIMARY}
        schema.add_field(field.name, TYPES[field.kind], **given)
    return schema


def _index(client: MilvusClient, name: str, field: collection.Field, wanted: Mapping[str, Any] | None) -> None:
    """Create an index of the first kind that the server takes; without one, filters on a scalar field scan.

    With `wanted`, create that one. Raises IndexRefused.
    """
    if client.list_indexes(name, field.name, timeout=TIMEOUT_SECONDS):
        return
    if wanted is not None:
        try:
            _create_index(client, name, field, metric_type=collection.METRIC, **wanted)
        except MilvusException as error:
            if isinstance(translate(error), Permanent) or error.code == _UNEXPECTED:
                raise IndexRefused(f"Milvus refuses the index {wanted['index_type']}: {error.message}") from error
            raise
        return
    for kind in _kinds(field):
        if not _is_refused(partial(_create_index, client, name, field, **kind)):
            return


def _default_index(client: MilvusClient) -> Mapping[str, Any]:
    version = str(client.get_server_version(timeout=TIMEOUT_SECONDS))
    is_lite = version.startswith(_LITE_VERSION)
    return {"index_type": "FLAT", "params": {}} if is_lite else {"index_type": "HNSW", "params": collection.HNSW}


def _kinds(field: collection.Field) -> list[dict[str, Any]]:
    """Parameters of the field's index, the preferred kind first."""
    if field.kind == "sparse":
        return [{"index_type": "SPARSE_INVERTED_INDEX", "metric_type": collection.SPARSE_METRIC}]
    return [{"index_type": kind} for kind in field.index]


def _create_index(client: MilvusClient, name: str, field: collection.Field, **kind: Any) -> None:
    indexes = client.prepare_index_params()
    indexes.add_index(field.name, **kind)
    client.create_index(name, indexes, timeout=TIMEOUT_SECONDS, sync=False)  # loading waits for it
