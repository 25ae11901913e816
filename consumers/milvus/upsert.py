"""Upsert requests, packed column by column: pymilvus packs them value by value, 50 times as slowly.

See docs/decisions/0008. A test compares our bytes with those of pymilvus.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pymilvus import MilvusClient
from pymilvus.client.utils import check_status
from pymilvus.grpc_gen import milvus_pb2

from consumers.milvus.collection import TYPES
from consumers.milvus.rows import Row
from schema import collection, varint
from schema.events import sparse
from schema.failures import Permanent

_FIRST_FIELD = b"\x0a"  # protobuf: field 1 of a message, length-delimited bytes follow


def upsert(client: MilvusClient, alias: str, rows: Sequence[Row], *, timeout_seconds: float) -> None:
    """Write rows, all with the same fields, to the collection `alias`.

    Raises what pymilvus raises, and Permanent.
    """
    context = client._generate_call_context()
    stub = client._get_connection()._stub
    answer = stub.Upsert(pack(alias, rows), timeout=timeout_seconds, metadata=context.to_grpc_metadata())
    check_status(answer.status)


def pack(alias: str, rows: Sequence[Row]) -> Any:
    """Build the request. Raises Permanent on a value that it cannot hold."""
    request = milvus_pb2.UpsertRequest(collection_name=alias, num_rows=len(rows))
    for field in collection.FIELDS:
        if field.name in rows[0]:
            data = request.fields_data.add(field_name=field.name, type=TYPES[field.kind])
            try:
                _fill(data, field.kind, [row[field.name] for row in rows])
            except (TypeError, ValueError) as error:
                raise Permanent(f"Milvus cannot take {field.name}: {error}") from error
    return request


def _fill(data: Any, kind: str, values: Sequence[Any]) -> None:
    match kind:
        case "varchar":
            data.scalars.string_data.data.extend(values)
        case "int64":
            data.scalars.long_data.data.extend(values)
        case "vector":
            data.vectors.dim = len(values[0])
            floats = b"".join([np.asarray(vector, "<f4").tobytes() for vector in values])
            data.vectors.float_vector.MergeFromString(_FIRST_FIELD + varint.encode(len(floats)) + floats)
        case "sparse":
            contents = [sparse.pack(weights) for weights in values]
            data.vectors.sparse_float_vector.contents.extend(contents)
