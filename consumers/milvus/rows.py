"""Events as rows of the collection, checked again: a writer in another language may skip our writer's checks."""

from typing import Any

import numpy as np

from schema import collection, limits
from schema.events import sparse
from schema.events.events import ChunkLabels, ChunkRow, DocumentUpserted
from schema.failures import Permanent

_LENGTHS = {field.name: field.max_length for field in collection.FIELDS if field.max_length}
_OTHER_BYTES = sum(_LENGTHS.values()) - limits.CONTENT_BYTES + 256  # upper bound: ids, labels and their encoding
_SPARSE_BYTES = 8  # per entry
_NO_WEIGHTS = {0: 1e-30}  # a sparse vector must not be empty; token 0 marks the start of a text and has no weight

Row = dict[str, Any]


def row(event: DocumentUpserted, chunk: ChunkRow, dimension: int, *, with_sparse: bool) -> Row:
    """A whole row. Raises Permanent on a value that the collection cannot take."""
    made = {
        **labels(event, chunk),
        "content_hash": chunk.content_hash,
        "vector": _vector(chunk, dimension),
        "content": chunk.content,
    }
    weights = _weights(chunk)
    if with_sparse:
        made["sparse"] = weights or _NO_WEIGHTS
    return _check(made)


def labels(event: DocumentUpserted, chunk: ChunkLabels | ChunkRow) -> Row:
    """Fields that may change while the content stays. Raises Permanent on a value that the collection cannot take."""
    return _check(
        {
            "chunk_id": chunk.chunk_id,
            "doc_id": event.doc_id,
            "doc_version": event.version,
            "business_tag": event.business_tag,
            "oss_id": event.oss_key,
            "modal_type": chunk.modal_type,
            "vector_level": chunk.vector_level,
            "associate_id": chunk.associate_id,
        }
    )


def size_bytes(row: Row) -> int:
    """Upper bound of the row's size: 4 bytes per character of UTF-8."""
    vectors = 4 * len(row["vector"]) + _SPARSE_BYTES * len(row.get("sparse", ()))
    return _OTHER_BYTES + vectors + 4 * len(row["content"])


def largest_bytes(dimension: int) -> int:
    """Upper bound of the size of any row."""
    return _OTHER_BYTES + 4 * dimension + _SPARSE_BYTES * limits.SPARSE_ENTRIES + limits.CONTENT_BYTES


def _check(row: Row) -> Row:
    for name, most in _LENGTHS.items():
        if len(row.get(name, "")) * 4 > most and (size := len(row[name].encode())) > most:
            raise Permanent(f"chunk {row['chunk_id']}: {name} has {size} bytes, Milvus takes {most}")
    return row


def _vector(chunk: ChunkRow, dimension: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    if len(chunk.vector) != 4 * dimension:
        raise Permanent(
            f"chunk {chunk.chunk_id}: the vector has {len(chunk.vector)} bytes, "
            f"{dimension} float32 numbers need {4 * dimension}"
        )
    vector = np.frombuffer(chunk.vector, "<f4")
    if not np.isfinite(vector).all():
        raise Permanent(f"chunk {chunk.chunk_id}: the vector is not finite")
    return vector


def _weights(chunk: ChunkRow) -> dict[int, float]:
    try:
        return sparse.unpack(chunk.sparse)
    except ValueError as error:
        raise Permanent(f"chunk {chunk.chunk_id}: {error}") from error
