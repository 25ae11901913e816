"""`rag-outbox run` retries while another connection holds the lock of the SQLite file, at every step."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from producer import Writer
from relays.direct import DirectRelay, direct_relay
from schema.database import connection as connections
from schema.database.connection import connect
from schema.events.events import Envelope
from schema.failures import DeadLetter, Retryable
from schema.retry import Backoff
from tests.support.pipeline import MODEL, document
from tests.support.waiting import wait_for

pytestmark = pytest.mark.integration

LOCKED = "metadata database: database is locked"


class Sink:
    """Takes everything, after it called `before`."""

    name = "sink"

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.applied: list[str] = []
        self._before = before

    def apply(self, envelopes: Sequence[Envelope], /) -> list[DeadLetter]:
        self._before()
        self.applied += [one.doc_id for one in envelopes]
        return []


class Lock:
    """The write lock of the file, held by a connection of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._holder: Connection | None = None

    def take(self) -> None:
        self._holder = self._engine.connect()
        self._holder.begin()

    def release(self) -> None:
        assert self._holder is not None
        self._holder.close()


@pytest.fixture
def impatient(sqlite: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine for the same file that waits 20 ms for a lock, instead of 30 s."""
    with sqlite.begin() as connection:
        Writer(MODEL).upsert(connection, document("a", "one"))
    monkeypatch.setattr(connections, "_SQLITE_BUSY_TIMEOUT_SECONDS", 0.02)
    engine = connect(f"sqlite:///{Path(str(sqlite.url.database))}")
    yield engine
    engine.dispose()


def make_relay(engine: Engine, sink: Sink, failures: list[str], refill: Callable[[], int] = lambda: 0) -> DirectRelay:
    return direct_relay(
        engine,
        [sink],
        backoff=Backoff(0.01, 0.02),
        failing=lambda reason, _: failures.append(reason),
        refill=refill,
    )


@pytest.mark.parametrize("step", ["start", "settle", "refill"])
def test_locked_database_is_retried(sqlite: Engine, impatient: Engine, step: str) -> None:
    lock, failures, refills = Lock(sqlite), list[str](), list[int]()

    def refill() -> int:
        if step == "refill" and not refills:
            refills.append(1)
            lock.take()
        with impatient.begin() as connection:
            connection.execute(text("UPDATE documents SET status = status"))
        return 0

    sink = Sink(lock.take if step == "settle" else lambda: None)
    if step == "start":
        lock.take()
    relay = make_relay(impatient, sink, failures, refill)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(relay.run, threading.Event(), until_idle=True)
        wait_for(lambda: len(failures) >= 3 or run.done(), "three failed attempts")
        lock.release()
        run.result(30)
    relay.close()
    assert set(failures) == {LOCKED}
    assert sink.applied == ["a"]
    with sqlite.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM outbox")).scalar_one() == 0


def test_patience_ends_with_a_retryable_error(sqlite: Engine, impatient: Engine) -> None:
    lock = Lock(sqlite)
    lock.take()
    relay = make_relay(impatient, Sink(), [])
    with pytest.raises(Retryable, match=f"^{LOCKED}$"):
        relay.run(threading.Event(), until_idle=True, patience_seconds=0.1)
    lock.release()
    relay.close()


def test_stop_ends_a_relay_whose_database_is_locked(sqlite: Engine, impatient: Engine) -> None:
    lock, stop, sink = Lock(sqlite), threading.Event(), Sink()
    lock.take()
    relay = direct_relay(impatient, [sink], backoff=Backoff(0.01, 0.02), failing=lambda _reason, _seconds: stop.set())
    relay.run(stop, until_idle=False)
    lock.release()
    relay.close()
    assert sink.applied == []
