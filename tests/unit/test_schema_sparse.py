"""Sparse weights as bytes: the documented encoding is read, and invalid bytes are refused."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.events import sparse

pytestmark = pytest.mark.unit


def test_entries_are_little_endian_and_sorted_by_id() -> None:
    packed = sparse.pack({70: 2.0, 5: 0.5, 4_294_967_294: 1.0})
    assert packed == (
        b"\x05\x00\x00\x00\x00\x00\x00\x3f" + b"\x46\x00\x00\x00\x00\x00\x00\x40" + b"\xfe\xff\xff\xff\x00\x00\x80\x3f"
    )
    assert sparse.unpack(packed) == {5: 0.5, 70: 2.0, 4_294_967_294: 1.0}
    as_models_give_them: dict[Any, Any] = {np.int64(5): np.float16(0.5)}
    assert sparse.pack(as_models_give_them) == packed[:8]
    assert (sparse.pack({}), sparse.unpack(b"")) == (b"", {})


@given(st.dictionaries(st.integers(0, 2**32 - 2), st.floats(2.0**-126, 2.0**127, width=32), max_size=50))
def test_weights_are_equal_after_packing_and_unpacking(weights: dict[int, float]) -> None:
    assert sparse.unpack(sparse.pack(weights)) == weights


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (b"1234567", "7 bytes of sparse weights are not whole entries of 8 bytes"),
        (struct.pack("<IfIf", 6, 1, 5, 1), "the ids of the sparse weights do not rise"),
        (struct.pack("<IfIf", 5, 1, 5, 1), "the ids of the sparse weights do not rise"),
        (struct.pack("<If", 2**32 - 1, 1), "an id of the sparse weights is over 4294967294"),
        (struct.pack("<If", 5, 0), "a sparse weight is not above 0 and finite"),
        (struct.pack("<If", 5, -1), "a sparse weight is not above 0 and finite"),
        (struct.pack("<If", 5, float("nan")), "a sparse weight is not above 0 and finite"),
        (struct.pack("<If", 5, float("inf")), "a sparse weight is not above 0 and finite"),
        (b"".join(struct.pack("<If", number, 1) for number in range(4_097)), "4097 sparse weights are more than 4096"),
    ],
)
def test_bytes_that_pack_cannot_make_are_refused(packed: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        sparse.unpack(packed)
