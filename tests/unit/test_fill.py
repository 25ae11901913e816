"""Waiting for a sink to be filled: it ends, it says why nothing moves, and it gives up."""

from collections.abc import Iterator
from itertools import count

import pytest

from operations.rebuild import fill as module
from operations.rebuild.errors import Stalled
from operations.rebuild.fill import Watch, fill
from operations.rebuild.states import Progress

pytestmark = pytest.mark.unit

SERVED_BY_NOBODY = "no process serves it: start rag-outbox consume milvus"


def progress(applied: int, absent: int, **lacking: str) -> Progress:
    return Progress(applied, 0, absent, 0, lacking)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0)


def clock() -> Iterator[float]:
    """A second per look."""
    return (float(second) for second in count())


def test_it_refills_until_nothing_is_left() -> None:
    left = [3]

    def work() -> int:
        left[0] -= 1
        return 1

    shown: list[Progress] = []
    done = fill(
        "s", lambda: progress(3 - left[0], left[0]), lambda one: one.absent == 0, work, str, Watch(show=shown.append)
    )
    assert (done.applied, left[0]) == (3, 0)
    assert [one.applied for one in shown] == [0, 1, 2, 3]


def test_stillness_is_explained_once_per_minute_and_ends() -> None:
    notes: list[str] = []
    times = clock()
    watch = Watch(note=notes.append, give_up_seconds=100, clock=lambda: next(times))
    with pytest.raises(Stalled, match=rf"^gave up after 100 s: s holds 1 of 3 documents; {SERVED_BY_NOBODY}"):
        fill("s", lambda: progress(1, 2, d="lost"), lambda _: False, None, lambda: SERVED_BY_NOBODY, watch)
    assert notes == [f"s holds 1 of 3 documents; {SERVED_BY_NOBODY}; 'd': lost"] * 2


def test_what_moves_is_never_given_up() -> None:
    notes: list[str] = []
    times, applied = clock(), count()
    watch = Watch(note=notes.append, give_up_seconds=3, clock=lambda: next(times))
    done = fill("s", lambda: progress(next(applied), 1), lambda one: one.applied == 200, None, str, watch)
    assert (done.applied, notes) == (200, [])
