"""A consumer process begins to serve a sink that joins, ends one that leaves, and fails with one that fails."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from operations import sinks
from operations.profiles import sink_loops
from operations.profiles.sink_loop import Shared
from operations.profiles.sink_loops import SinkLoops
from schema.failures import StoreMissing
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit


class Loop:
    """A loop that goes round until it must stop, or fails when it is told to."""

    def __init__(self, name: str, made: list["Loop"]) -> None:
        self.name = name
        self.stop = threading.Event()
        self.fail = threading.Event()
        self.check = None
        self.is_member = self.is_closed = False
        made.append(self)

    def open(self, stop: threading.Event) -> None:
        pass

    def run(self) -> None:
        self.is_member = True
        try:
            while not self.stop.wait(0.01):
                if self.fail.is_set():
                    raise StoreMissing(f"{self.name} is gone")
        finally:
            self.is_member = False

    def close(self) -> None:
        self.is_closed = True


class Process:
    """A process that serves `kind`; `names` is what the table says."""

    def __init__(self, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.names, self.made, self.stop = names, list[Loop](), threading.Event()
        monkeypatch.setattr(sinks, "names_of_kind", lambda _system, _kind: list(self.names))
        monkeypatch.setattr(sinks, "read_all", lambda _system: ())
        monkeypatch.setattr(sink_loops, "_LOOK_SECONDS", 0.01)
        shared = SimpleNamespace(system=None, process=SimpleNamespace(metrics=None))
        self.loops = SinkLoops(cast(Shared, shared), "milvus")
        monkeypatch.setattr(self.loops, "_new_loop", lambda name: Loop(name, self.made))

    @contextmanager
    def running(self) -> Iterator[Any]:
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(lambda: self.loops.run(self.loops.open_first(self.stop), self.stop))
            try:
                yield ended
            finally:
                self.stop.set()

    def served(self) -> set[str]:
        return {one.name for one in self.made if one.is_member}


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(["milvus"], monkeypatch)


def test_loops_follow_the_table(process: Process) -> None:
    with process.running() as ended:
        wait_for(lambda: process.served() == {"milvus"}, "the first sink")
        process.names = ["milvus", "milvus-2"]
        wait_for(lambda: process.served() == {"milvus", "milvus-2"}, "the sink that joins")
        process.names = ["milvus-2"]
        wait_for(lambda: process.served() == {"milvus-2"}, "the end of the one that leaves")
    ended.result(10)
    assert process.served() == set()
    assert all(one.is_closed for one in process.made)


def test_failure_of_one_loop_ends_all(process: Process) -> None:
    process.names = ["milvus", "milvus-2"]
    with process.running() as ended:
        wait_for(lambda: len(process.served()) == 2, "both sinks")
        process.made[1].fail.set()
        with pytest.raises(StoreMissing, match="milvus-2 is gone"):
            ended.result(10)
    assert process.served() == set()


def test_failure_of_a_sink_that_was_removed_is_no_failure(process: Process) -> None:
    process.names = ["milvus", "milvus-2"]
    with process.running() as ended:
        wait_for(lambda: len(process.served()) == 2, "both sinks")
        process.names = ["milvus"]
        process.made[1].fail.set()
        wait_for(lambda: process.made[1].is_closed, "the end of its loop")
        assert process.served() == {"milvus"}
    ended.result(10)


def test_process_ends_when_its_last_sink_was_removed(process: Process) -> None:
    with process.running() as ended:
        wait_for(lambda: process.served() == {"milvus"}, "the sink")
        process.names = []
        with pytest.raises(sinks.UnknownSink, match="there is no sink 'milvus'"):
            ended.result(10)


def test_process_without_a_sink_does_not_start(process: Process) -> None:
    process.names = []
    with pytest.raises(sinks.UnknownSink):
        process.loops.open_first(process.stop)
