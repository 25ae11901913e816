"""The collection behind the alias `rag_vectors`, made once of what the server offers, which is found out by asking.

A crash at any step does no harm: a step whose result exists is left out, and the alias, by which everybody finds the
collection, comes last. Nor do others at the same time: a server takes the same request twice, Milvus Lite answers with
an error after which the next try finds the step done.
"""

import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pymilvus import CollectionSchema, DataType, MilvusClient
from pymilvus.exceptions import MilvusException

from consumers.milvus.errors import translated
from schema import collection
from schema.failures import Permanent

TIMEOUT_SECONDS: Final = 30.0  # of one request; the client's own default retries for many minutes
TYPES: Final = {
    "varchar": DataType.VARCHAR,
    "int64": DataType.INT64,
    "vector": DataType.FLOAT_VECTOR,
    "sparse": DataType.SPARSE_FLOAT_VECTOR,
}
_FIRST = f"{collection.ALIAS}_1"
_PRIMARY = collection.FIELDS[0]
_log = logging.getLogger(__name__)


def ensure(client: MilvusClient, dimension: int) -> None:
    """Have a loaded collection behind the alias; one that exists is left as it is."""
    if not _exists(client, collection.ALIAS):
        if not _exists(client, _FIRST):
            _create(client, dimension)
        stored = stored_fields(client, _FIRST)
        for field in collection.FIELDS:
            if field.name in stored:
                _index(client, field)
        if not _exists(client, collection.ALIAS):
            client.create_alias(_FIRST, collection.ALIAS, timeout=TIMEOUT_SECONDS)
    client.load_collection(collection.ALIAS, timeout=TIMEOUT_SECONDS)


def stored_fields(client: MilvusClient, name: str) -> dict[str, dict[str, Any]]:
    """Field name → parameters, as they were made."""
    described = client.describe_collection(name, timeout=TIMEOUT_SECONDS)
    return {field["name"]: field["params"] for field in described["fields"]}


def _exists(client: MilvusClient, name: str) -> bool:
    return bool(client.has_collection(name, timeout=TIMEOUT_SECONDS))


def _refused(request: Callable[[], object]) -> bool:
    """Whether the server cannot do what the request asks; raises when it may be able to later."""
    try:
        request()
    except MilvusException as error:
        if isinstance(translated(error), Permanent):
            return True
        raise
    return False


def _create(client: MilvusClient, dimension: int) -> None:
    fields: tuple[collection.Field, ...] = collection.FIELDS
    if not _takes_sparse(client):
        fields = tuple(field for field in fields if field.kind != "sparse")
        _log.warning("this Milvus takes no sparse weights: they are left out of the collection %s", _FIRST)
    client.create_collection(_FIRST, schema=_schema(fields, dimension), timeout=TIMEOUT_SECONDS)


def _takes_sparse(client: MilvusClient) -> bool:
    """Asked on a collection of its own: Milvus 2.3 takes the field, refuses its index, and dies when it is loaded."""
    name = f"{collection.ALIAS}_probe_{uuid.uuid4().hex}"
    [sparse] = [field for field in collection.FIELDS if field.kind == "sparse"]
    schema = _schema((_PRIMARY, sparse), 0)
    if _refused(lambda: client.create_collection(name, schema=schema, timeout=TIMEOUT_SECONDS)):
        return False
    try:
        return not _refused(lambda: _create_index(client, name, sparse, **_kinds(sparse)[0]))
    finally:
        client.drop_collection(name, timeout=TIMEOUT_SECONDS)


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


def _index(client: MilvusClient, field: collection.Field) -> None:
    """An index of the first kind that the server takes; without any, filters on a scalar field scan."""
    if client.list_indexes(_FIRST, field.name, timeout=TIMEOUT_SECONDS):
        return
    for kind in _kinds(field):
        if not _refused(partial(_create_index, client, _FIRST, field, **kind)):
            return


def _kinds(field: collection.Field) -> list[dict[str, Any]]:
    """Parameters of the field's index, the preferred kind first."""
    if field.kind == "vector":
        return [{"index_type": "HNSW", "metric_type": collection.METRIC, "params": collection.HNSW}]
    if field.kind == "sparse":
        return [{"index_type": "SPARSE_INVERTED_INDEX", "metric_type": collection.SPARSE_METRIC}]
    return [{"index_type": kind} for kind in field.index]


def _create_index(client: MilvusClient, name: str, field: collection.Field, **kind: Any) -> None:
    indexes = client.prepare_index_params()
    indexes.add_index(field.name, **kind)
    client.create_index(name, indexes, timeout=TIMEOUT_SECONDS, sync=False)  # loading waits for it
