"""`python -m tests.support.dying_adopt MOMENT BATCH OPTION…`: `rag-outbox adopt`, which kills itself at one moment.

The moments: `in` the transaction of a batch that is written, right `before` its commit, and right `after` a batch. The
batches are counted from 1; those that are unchanged count for `after` only.
"""

import os
import signal
import sys
from typing import Any

from sqlalchemy import Engine, event

from operations.cli import main as cli
from operations.ingest import upsert


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_after(batch: int) -> None:
    real_upsert, done = upsert.upsert, 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        written = real_upsert(*arguments, **named)
        done += 1
        if done == batch:
            _die()
        return written

    upsert.upsert = counted


def _die_in(batch: int, *, before_commit: bool) -> None:
    inserted = 0

    def at_statement(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        nonlocal inserted
        inserted += statement.startswith("INSERT INTO outbox")
        if inserted == batch and not before_commit:
            _die()

    def at_commit(_connection: object) -> None:
        if inserted == batch:
            _die()

    event.listen(Engine, "before_cursor_execute", at_statement)
    event.listen(Engine, "commit", at_commit)


if __name__ == "__main__":
    moment, number, *options = sys.argv[1:]
    if moment == "after":
        _die_after(int(number))
    else:
        _die_in(int(number), before_commit=moment == "before")
    sys.argv = ["rag-outbox", "adopt", *options]
    cli.main()
