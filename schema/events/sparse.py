"""Encodes sparse weights: 8 bytes per entry, a token id (uint32) and its weight (float32), sorted by id.

Both are little-endian, as vectors are.
"""

from collections.abc import Mapping

import numpy as np

from schema import limits

_ENTRY = np.dtype([("id", "<u4"), ("weight", "<f4")])


def pack(weights: Mapping[int, float]) -> bytes:
    """Encode weights. They must keep the limits SPARSE_ENTRIES and SPARSE_ID, and be above 0 as float32."""
    return np.fromiter(sorted(weights.items()), _ENTRY, len(weights)).tobytes()


def unpack(packed: bytes) -> dict[int, float]:
    """Token id → weight. Raises ValueError if `pack` cannot have made these bytes."""
    if len(packed) % _ENTRY.itemsize:
        raise ValueError(f"{len(packed)} bytes of sparse weights are not whole entries of {_ENTRY.itemsize} bytes")
    entries = np.frombuffer(packed, _ENTRY)
    ids, weights = entries["id"], entries["weight"]
    if len(entries) > limits.SPARSE_ENTRIES:
        raise ValueError(f"{len(entries)} sparse weights are more than {limits.SPARSE_ENTRIES}")
    if not (ids[:-1] < ids[1:]).all():
        raise ValueError("the ids of the sparse weights do not rise")
    if (ids > limits.SPARSE_ID).any():
        raise ValueError(f"an id of the sparse weights is over {limits.SPARSE_ID}")
    if not ((weights > 0) & np.isfinite(weights)).all():
        raise ValueError("a sparse weight is not above 0 and finite")
    return dict(zip(ids.tolist(), weights.tolist(), strict=True))
