"""Seeded schedules of the shipped processes over models: no invariant is violated, and all stores end equal."""

from collections import Counter

import pytest

from tests.simulation.__main__ import describe
from tests.simulation.simulation import run

pytestmark = pytest.mark.simulation

CHUNKS, SCHEDULES = 8, 30
SITUATIONS = {
    "expired",
    "failovers with lost commits",
    "faults",
    "fenced",
    "kills",
    "late commits",
    "late consumers",
    "lost events found",
    "milvus lost",
    "multi-part versions",
    "pauses",
    "refilled",
    "refused by Kafka",
    "relabels with a base",
    "takeovers that settled rows",
}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_schedules_keep_all_invariants(chunk: int) -> None:
    for seed in range(chunk * SCHEDULES, (chunk + 1) * SCHEDULES):
        result = run(seed)
        assert not result.failure, describe(result)


def test_schedules_reach_every_situation() -> None:
    seen: Counter[str] = Counter()
    for seed in range(10_000, 10_150):
        result = run(seed)
        assert not result.failure, describe(result)
        seen += Counter(result.seen)
        if seen.keys() >= SITUATIONS:
            return
    assert SITUATIONS - seen.keys() == set()


def test_seed_gives_the_same_schedule_again() -> None:
    first, second = run(7), run(7)
    assert (first.steps, first.seen, first.trace) == (second.steps, second.seen, second.trace)
