"""The contract of sinks can fail: a sound sink passes it, and each of five broken sinks does not."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress

import pytest

from consumers.sink import Change
from tests.contracts.sink import SinkContract
from tests.support.memory_sink import MemorySink

pytestmark = pytest.mark.unit


class MemoryStore:
    shows_chunks = True
    shows_files = True

    def __init__(self, sink: MemorySink) -> None:
        self.sink = sink

    def read(self, doc_id: str) -> dict[str, str]:
        return dict(self.sink.store().get(doc_id, {}))

    def lose(self) -> None:
        self.sink.documents = None


class DeletesFirst(MemorySink):
    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            for event in change.events:
                for key in (*event.tombstones, *event.removed_files):
                    self.store()[change.doc_id].pop(key, None)
        super().apply(changes)


class DropsParts(MemorySink):
    def apply(self, changes: Sequence[Change]) -> None:
        super().apply([Change(one.doc_id, one.version, one.events[-1:], one.replace) for one in changes])


class IgnoresReplace(MemorySink):
    def apply(self, changes: Sequence[Change]) -> None:
        super().apply([Change(one.doc_id, one.version, one.events) for one in changes])


class AcknowledgesFirst(MemorySink):
    """Writes a change when the next one comes."""

    waiting: Sequence[Change] = ()

    def apply(self, changes: Sequence[Change]) -> None:
        super().apply(self.waiting)
        self.waiting = changes


class CreatesItself(MemorySink):
    def apply(self, changes: Sequence[Change]) -> None:
        self.create()
        super().apply(changes)


def failing(make: Callable[[], MemorySink]) -> set[str]:
    """The tests of the contract that a sink fails."""
    contract = SinkContract()
    failed = set()
    for name, test in inspect.getmembers(contract, inspect.ismethod):
        if not name.startswith("test_"):
            continue
        sink = make()
        sink.create()
        try:
            with suppress(pytest.skip.Exception):
                test(store=MemoryStore(sink), sink=sink)
        except (AssertionError, pytest.fail.Exception):
            failed.add(name)
    return failed


def test_sound_sink_passes() -> None:
    assert failing(MemorySink) == set()


@pytest.mark.parametrize(
    ("broken", "found_by"),
    [
        (DeletesFirst, "test_refused_change_removes_nothing"),
        (DropsParts, "test_every_part_of_a_change_is_applied"),
        (IgnoresReplace, "test_replace_removes_everything_else_of_its_document"),
        (AcknowledgesFirst, "test_acknowledged_change_is_readable"),
        (CreatesItself, "test_missing_store_is_found_and_only_create_makes_it"),
    ],
)
def test_broken_sink_fails(broken: Callable[[], MemorySink], found_by: str) -> None:
    assert found_by in failing(broken)


class TestMemorySink(SinkContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(MemorySink())
