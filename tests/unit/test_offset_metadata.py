"""The metadata of a lane's committed offset; the expected text is written by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relays import offset_metadata

pytestmark = pytest.mark.unit

ROWS = st.lists(st.tuples(st.integers(1, 2**60), st.integers(0, 2**32 - 1)), unique_by=lambda row: row[0]).map(sorted)


def test_encoded_row_is_id_difference_then_checksum() -> None:
    # 300 = 0xAC 0x02 as a variable-length number, then 4 bytes; then a difference of 1, and 4 bytes
    assert offset_metadata.encode([(300, 0x04030201), (301, 0xFF)]) == "rAIBAgMEAf8AAAA="


def test_checksum_is_crc32_of_the_event_id() -> None:
    assert offset_metadata.checksum("123456789") == 0xCBF43926


@given(ROWS)
def test_encoded_rows_decode_to_the_same_rows(rows: list[tuple[int, int]]) -> None:
    rows = rows[: offset_metadata.room(rows)]
    text = offset_metadata.encode(rows)
    assert len(text) < 4_096
    assert offset_metadata.decode(text) == rows


def test_offset_names_more_dense_rows_than_sparse_ones() -> None:
    assert offset_metadata.room([(10**9 + 16 * i, i) for i in range(1_000)]) == 613
    assert offset_metadata.room([(10**9 * (i + 1), i) for i in range(1_000)]) == 341
    assert offset_metadata.room([(1, 1)]) == 1


@pytest.mark.parametrize("text", ["rAIB", "rAIBAgM=", "gA==", "not base64!"])
def test_truncated_or_foreign_metadata_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"cut off|[Bb]ase64|padding"):
        offset_metadata.decode(text)


def test_row_with_a_reused_id_does_not_match() -> None:
    published = [(7, offset_metadata.checksum("a")), (8, offset_metadata.checksum("b"))]
    assert offset_metadata.match(published, [(7, "a"), (8, "another"), (9, "c")]) == [(7, "a")]
