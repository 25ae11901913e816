"""The size of a batch follows the speed of Kafka."""

import pytest

from relays.batch_size import LEAST_BYTES, MOST_BYTES, BatchSize

pytestmark = pytest.mark.unit


def test_batch_that_takes_too_long_halves_the_next() -> None:
    size = BatchSize()
    size.note_failed(MOST_BYTES, 10.0, 10.0)
    assert size.bytes == MOST_BYTES // 2
    size.note_failed(1_000_000, 12.0, 10.0)
    assert size.bytes == 500_000, "half of what was too much, not of what was allowed"
    for _ in range(10):
        size.note_failed(size.bytes, 10.0, 10.0)
    assert size.bytes == LEAST_BYTES


def test_quick_failure_changes_nothing() -> None:
    size = BatchSize()
    size.note_failed(MOST_BYTES, 0.5, 10.0)
    assert size.bytes == MOST_BYTES


def test_size_grows_again_after_quick_full_batches_only() -> None:
    size = BatchSize()
    size.note_failed(MOST_BYTES, 10.0, 10.0)
    for _ in range(100):
        size.note_published(1_000, 0.1, 10.0)
        size.note_published(size.bytes, 5.0, 10.0)
    assert size.bytes == MOST_BYTES // 2
    for _ in range(5):
        size.note_published(size.bytes, 1.0, 10.0)
    assert size.bytes == MOST_BYTES
