"""Runs the programs that fetch servers: apt-get, dpkg, mvn, go, pip. Their output goes to a log in the cache."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from compose.native.errors import ServerError, Unavailable
from compose.native.output import say

PROGRESS_SECONDS = 15.0
LIMIT_SECONDS = 1800.0


def need(name: str, *programs: str, package: str) -> None:
    """Raise Unavailable unless all programs are installed; `package` says what to install."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Unavailable(f"{name}: {' and '.join(missing)} not found; install {package}")


def need_machine(name: str, *machines: str) -> str:
    """The architecture of this Linux machine, one of `machines` (names as in `uname -m`). Raises Unavailable."""
    if platform.system() != "Linux" or platform.machine() not in machines:
        here = f"{platform.system()} on {platform.machine()}"
        raise Unavailable(f"{name}: runs on Linux on {' or '.join(machines)} only; this is {here}")
    return platform.machine()


def run(name: str, command: Sequence[str | Path], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run a program to its end. Raises ServerError with the end of its output if it fails."""
    arguments = [str(argument) for argument in command]
    began = time.monotonic()
    with log.open("ab") as output:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        try:
            while True:
                try:
                    status = child.wait(PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    spent = time.monotonic() - began
                    if spent > LIMIT_SECONDS:
                        raise ServerError(
                            f"{name}: {arguments[0]} took more than {LIMIT_SECONDS:.0f} s; its log: {log}"
                        ) from None
                    say(name, f"{Path(arguments[0]).name} still runs after {spent:.0f} s")
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if status != 0:
        program = Path(arguments[0]).name
        raise ServerError(f"{name}: {program} failed with status {status}; its log {log} ends with\n{tail(log)}")


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, indented."""
    try:
        text = log.read_bytes()[-20_000:].decode(errors="replace")
    except FileNotFoundError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def remove(folder: Path) -> None:
    """Remove a folder if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
