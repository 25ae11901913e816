"""Runs MySQL's own programs with bounded streams: `mysqldump` writes one, `mysql` reads one.

A child ends with its context: also after an error, Ctrl-C or SIGTERM of this process.
"""

import os
import select
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy import URL

from operations.backup.database.mysql_options import option_file
from operations.backup.errors import BackupFailed, BackupUnusable, ClientUnusable
from operations.settings import PREFIX
from schema.object_store.port import Readable

_PIECE_BYTES = 65_536
_SILENT_SECONDS = 600.0  # without a byte
_VERSION_SECONDS = 30.0
_END_SECONDS = 60.0  # from the end of its stream to its own
_ERROR_LINES = 5
_TAIL_BYTES = 200
_COMPLETED = b"\n-- Dump completed"
_DUMP = (
    "--single-transaction",
    "--quick",
    "--no-tablespaces",  # else it needs the privilege PROCESS
    "--skip-triggers",
    "--skip-column-statistics",
    "--set-gtid-purged=OFF",  # else a restore would write no binlog, and no replica would get it
    "--hex-blob",
    "--default-character-set=utf8mb4",
    "--max-allowed-packet=1G",
)
_LOAD = ("--binary-mode", "--default-character-set=utf8mb4", "--max-allowed-packet=1G")


class MySQLClient:
    """`folder`: where the programs are; None: on PATH. `url`: the server and the user."""

    def __init__(self, url: URL, folder: Path | None) -> None:
        self._url = url
        self._folder = folder

    @contextmanager
    def dump(self, database: str, tables: Sequence[str]) -> Iterator["DumpStream"]:
        """The dump of these tables as a stream. Raises ClientUnusable; reading raises BackupFailed."""
        with self._run("mysqldump", [*_DUMP, database, *tables]) as child:
            yield DumpStream(child)

    def load(self, stream: Readable, database: str) -> None:
        """Run the statements of a dump in a database. Raises BackupUnusable with what MySQL said."""
        with self._run("mysql", [*_LOAD, database]) as child:
            while piece := stream.read(_PIECE_BYTES):
                child.write(piece)
            child.end_input()
            child.require_success(BackupUnusable)

    def require(self) -> None:
        """Raises ClientUnusable unless both programs are there and are MySQL's."""
        for name in ("mysqldump", "mysql"):
            _require_mysql(self._find(name))

    def _find(self, name: str) -> Path:
        found = shutil.which(name, path=None if self._folder is None else str(self._folder))
        if found is None:
            place = "on PATH" if self._folder is None else f"in {self._folder} ({PREFIX}MYSQL_CLIENT_DIR)"
            raise ClientUnusable(
                f"there is no program {name} {place}: install MySQL's client, or set {PREFIX}MYSQL_CLIENT_DIR"
            )
        return Path(found)

    @contextmanager
    def _run(self, name: str, arguments: Sequence[str]) -> Iterator["Child"]:
        program = self._find(name)
        _require_mysql(program)
        with option_file(self._url) as options, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [program, f"--defaults-file=/dev/fd/{options}", *arguments],
                stdin=subprocess.PIPE if name == "mysql" else subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if name == "mysql" else subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                pass_fds=[options],
            )
            try:
                yield Child(name, process, errors)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        with suppress(OSError):
                            pipe.close()


class Child:
    """A running program; `write` and `read` wait for it, but not for ever."""

    def __init__(self, name: str, process: "subprocess.Popen[bytes]", errors: IO[bytes]) -> None:
        self.name = name
        self._process = process
        self._errors = errors

    def read(self, size: int) -> bytes:
        """At least one byte, unless it has closed its output. Raises BackupFailed when it is silent."""
        output = self._process.stdout
        assert output is not None
        if not select.select([output], [], [], _SILENT_SECONDS)[0]:
            raise BackupFailed(f"{self.name} wrote nothing for {_SILENT_SECONDS:.0f} s")
        return os.read(output.fileno(), size)

    def write(self, piece: bytes) -> None:
        """Raises BackupUnusable when it has ended, or takes nothing."""
        stdin = self._process.stdin
        assert stdin is not None
        os.set_blocking(stdin.fileno(), False)
        rest = memoryview(piece)
        while rest:
            if not select.select([], [stdin], [], _SILENT_SECONDS)[1]:
                raise BackupUnusable(f"{self.name} read nothing for {_SILENT_SECONDS:.0f} s")
            try:
                rest = rest[os.write(stdin.fileno(), rest) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self.require_success(BackupUnusable)
                raise BackupUnusable(f"{self.name} ended before the end of the dump") from None

    def end_input(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def require_success(self, error: Callable[[str], Exception]) -> None:
        """Wait for its end. Raises `error` with the last lines that it wrote to stderr."""
        try:
            status = self._process.wait(_SILENT_SECONDS if self.name == "mysql" else _END_SECONDS)
        except subprocess.TimeoutExpired:
            raise error(f"{self.name} does not end") from None
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()[-_ERROR_LINES:]
            raise error(f"{self.name} {how}: {'; '.join(lines) or 'it wrote no error'}")


class DumpStream:
    """What mysqldump writes. Raises BackupFailed instead of an early end."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._ahead = b""
        self._tail = b""
        self._has_ended = False

    def await_snapshot(self) -> None:
        """Wait until mysqldump reads from its snapshot: it writes the first table only after that."""
        while b"\n-- Table structure for table" not in self._ahead:
            if not (piece := self._child.read(_PIECE_BYTES)):
                self._require_end()
                return
            self._ahead += piece

    def read(self, size: int = -1, /) -> bytes:
        pieces = [self._ahead]
        length = len(self._ahead)
        while (size < 0 or length < size) and not self._has_ended:
            piece = self._child.read(_PIECE_BYTES)
            pieces.append(piece)
            length += len(piece)
            self._tail = (self._tail + piece)[-_TAIL_BYTES:]
            if not piece:
                self._require_end()
        whole = b"".join(pieces)
        end = len(whole) if size < 0 else size
        self._ahead = whole[end:]
        return whole[:end]

    def _require_end(self) -> None:
        self._has_ended = True
        self._child.require_success(BackupFailed)
        if _COMPLETED not in self._tail + self._ahead[-_TAIL_BYTES:]:
            raise BackupFailed("mysqldump ended before the end of the dump")


def _require_mysql(program: Path) -> None:
    """MariaDB's mysqldump cannot read all tables of MySQL, and MySQL does not take all of its dumps."""
    try:
        shown = subprocess.run(
            [program, "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClientUnusable(f"{program} cannot be run: {error}") from None
    said = (shown.stdout or shown.stderr).strip()
    if "mariadb" in said.lower():
        raise ClientUnusable(
            f"{program} is MariaDB's ({said}): install MySQL's own client, and set {PREFIX}MYSQL_CLIENT_DIR to its "
            "folder"
        )
    version = said.partition(" Ver ")[2].partition(".")[0].strip()
    if shown.returncode or "Distrib" in said or not version.isdecimal() or int(version) < 8:  # Distrib: 5.7
        raise ClientUnusable(f"{program} is not MySQL's client of version 8.0 or later: it says {said!r}")
