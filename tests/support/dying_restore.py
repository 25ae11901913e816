"""The command `backup restore` in a process that is killed at a named point."""

import os
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from tests.support import commands
from tests.support.commands import Folder

RESTORE = "operations.backup.restore"
POINTS = (  # a function, whether the process dies before or after it, and at which of its calls
    ("operations.backup.database.mysql_client.Child.end_input", "before", 1),
    (f"{RESTORE}._start_history", "after", 1),
    ("operations.backup.objects.copy._copy", "after", 20),
    (f"{RESTORE}.settle_sinks", "after", 1),
    (f"{RESTORE}.move_tables", "before", 1),
)
AFTER_MOVE = (f"{RESTORE}.move_tables", "after", 1)


def die_while_restoring(folder: Folder, point: tuple[str, str, int], *arguments: str) -> None:
    """Run the command until it kills itself at `point`."""
    with TemporaryDirectory() as streams:
        for name in ("stdin", "stdout", "stderr"):
            Path(streams, name).touch()
        given = ("backup", "restore", *arguments), folder.environment(), folder.path.parent, Path(streams)
        process = commands.FORKS.Process(target=_restore, args=(point, *given))
        process.start()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL, (process.exitcode, Path(streams, "stderr").read_text())
        process.close()


def _restore(point: tuple[str, str, int], *given: Any) -> None:
    import operations.backup.restore  # noqa: F401  # what is patched

    target, when, hit = point
    module, _, name = target.rpartition(".")
    with patch(target, _dying(_resolve(module, name), when, hit)):
        commands.run_command_here(*given)


def _resolve(module: str, name: str) -> Callable[..., Any]:
    from pkgutil import resolve_name

    found: Callable[..., Any] = getattr(resolve_name(module), name)
    return found


def _dying(call: Callable[..., Any], when: str, hit: int) -> Callable[..., Any]:
    calls = count(1)  # threads call at the same time

    def dying(*arguments: Any, **named: Any) -> Any:
        number = next(calls)
        if number == hit and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **named)
        if number == hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return dying
