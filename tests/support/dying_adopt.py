"""`python -m tests.support.dying_adopt MOMENT ARGUMENT…`: the command, which kills itself with SIGKILL at one moment.

The moments: `in` the transaction of the second batch, right `before` its commit, and right `after` it.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event

from operations import transactions
from operations.cli import main as cli

_BATCH = 2


def _die_at_call(count: int) -> Callable[..., None]:
    calls = 0

    def call(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return call


def _die(moment: str) -> None:
    die = _die_at_call(_BATCH)
    if moment == "after":
        upsert = transactions.upsert

        def then_die(*arguments: Any) -> Any:
            written = upsert(*arguments)
            die()
            return written

        transactions.upsert = then_die  # type: ignore[assignment]
        return

    def at_statement(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("INSERT INTO outbox"):
            if moment == "in":
                die()
            inserted.append(statement)

    def at_commit(_connection: object) -> None:
        if len(inserted) == _BATCH:
            os.kill(os.getpid(), signal.SIGKILL)

    inserted: list[str] = []
    event.listen(Engine, "before_cursor_execute", at_statement)
    if moment == "before":
        event.listen(Engine, "commit", at_commit)


if __name__ == "__main__":
    _die(sys.argv[1])
    sys.argv = ["rag-outbox", *sys.argv[2:]]
    cli.main()
