"""The cost of claiming a row at small and large backlogs, while a long reader keeps MySQL from purging deleted rows.

One process per backlog claims all lanes, as the relay does, settles the rows, and inserts as many new ones, so that
the backlog keeps its length. The snapshot of the reader is older than every deletion: each claim passes all rows
deleted before it. The backlogs take turns.
"""

import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from statistics import mean

from sqlalchemy import Engine, func, insert, select, text

from benchmarks import report, topic
from benchmarks.relay import EVENT_BYTES
from benchmarks.system import System, servers, system
from relays.outbox import SqlOutbox
from schema.database.connection import connect
from schema.database.tables import LANES, outbox

ROWS_PER_LANE = 500  # as in the relay
BATCH_BYTES = 32 * 1024 * 1024
DOCUMENTS = 5_000
SEED_ROWS = 10_000
COPIED_ROWS = 50_000  # per transaction
COPIED = (
    outbox.c.aggregate_id,
    outbox.c.aggregate_version,
    outbox.c.event_type,
    outbox.c.content_type,
    outbox.c.payload,
)
_engine: Engine
_claimed: set[int] = set()


def main() -> None:
    options = report.arguments(__doc__, largest=(1_000_000, 100_000, "backlog"), rounds=(30, 10, "claims per backlog"))
    found = servers(options.servers)
    backlogs = {f"backlog {rows:,}": rows for rows in (10_000, 100_000, 1_000_000) if rows <= options.largest}
    costs: dict[str, list[float]] = {label: [] for label in backlogs}
    with ExitStack() as stack:
        claimers = {label: stack.enter_context(claimer(found, rows)) for label, rows in backlogs.items()}
        for _ in range(options.rounds):
            for label, own in claimers.items():
                costs[label].append(own.submit(claim).result())
            sys.stderr.write(
                ", ".join(f"{label}: {rounds[-1]:.1f} µs per row" for label, rounds in costs.items()) + "\n"
            )
        peaks = {label: round(own.submit(peak_mib).result()) for label, own in claimers.items()}
    tenth = max(1, options.rounds // 10)
    report.report(
        "growth",
        "µs per claimed row",
        costs,
        keep=options.keep,
        against=dict.fromkeys(costs, next(iter(costs))),
        goal="largest 1.2 times the smallest, memory flat",
        peak_mib=peaks,
        last_to_first={label: round(mean(one[-tenth:]) / mean(one[:tenth]), 2) for label, one in costs.items()},
    )


@contextmanager
def claimer(found: dict[str, str], backlog: int) -> Iterator[ProcessPoolExecutor]:
    """A process on its own system, with `backlog` rows in the outbox and a reader with an open snapshot."""
    count = text("SELECT COUNT(*) FROM outbox")
    with system(found) as some:
        fill(some, backlog)
        url = some.engine.url.render_as_string(hide_password=False)
        with some.engine.connect().execution_options(isolation_level="REPEATABLE READ") as reader:
            reader.execute(text("SELECT id FROM outbox LIMIT 1"))
            with ProcessPoolExecutor(1, get_context("spawn"), prepare, (url,)) as own:
                yield own
            if reader.execute(count).scalar_one() != backlog:
                raise SystemExit("the reader lost its snapshot")
        with some.engine.connect() as connection:
            if connection.execute(count).scalar_one() != backlog:
                raise SystemExit("the backlog changed its length")


def fill(some: System, backlog: int) -> None:
    """Insert a few rows, then copy them inside the server."""
    topic.append(some.engine, SEED_ROWS, EVENT_BYTES, DOCUMENTS)
    rows = SEED_ROWS
    while rows < backlog:
        count = min(rows, backlog - rows, COPIED_ROWS)
        with some.engine.begin() as connection:
            newest = select(func.uuid(), *COPIED).order_by(outbox.c.id).limit(count)
            connection.execute(insert(outbox).from_select([outbox.c.event_id, *COPIED], newest))
        rows += count


def prepare(url: str) -> None:
    global _engine  # noqa: PLW0603  # used by the claiming process alone
    _engine = connect(url)


def claim() -> float:
    """Claim, settle, and insert new rows in the same lanes. Returns the microseconds per row of the claim."""
    began = time.perf_counter()
    rows = SqlOutbox(_engine).claim_lanes(range(LANES), [], ROWS_PER_LANE, BATCH_BYTES)
    seconds = time.perf_counter() - began
    ids = [row.id for row in rows]
    if len(rows) < LANES or ids != sorted(ids) or not _claimed.isdisjoint(ids):
        raise AssertionError("rows are missing, out of order, or came twice")
    _claimed.update(ids)
    with _engine.begin() as connection:
        again = select(func.uuid(), *COPIED).where(outbox.c.id.in_(ids))
        connection.execute(insert(outbox).from_select([outbox.c.event_id, *COPIED], again))
    SqlOutbox(_engine).settle(rows)
    return 1e6 * seconds / len(rows)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
