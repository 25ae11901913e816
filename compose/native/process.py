"""Server processes that outlive this one. Pid and start time identify a process: a reused pid is never signalled."""

import os
import resource
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from compose.native.errors import ServerError

_children: dict[int, "subprocess.Popen[bytes]"] = {}  # kept to collect those that end before this process


class Process(msgspec.Struct, frozen=True):
    """A process as the state file remembers it."""

    pid: int
    started: int  # clock ticks since boot
    boot: str  # the kernel's id of that boot


def spawn(command: Sequence[str | Path], home: Path, log: Path, environment: Mapping[str, str]) -> Process:
    """Start a server in its own session and in the folder `home`; its output is appended to `log`.

    It gets `environment`, and only a few of our variables: a MINIO_… or ETCD_… variable of the user would change a
    server.
    """
    _raise_file_limit()
    kept = {
        key: os.environ[key]
        for key in ("PATH", "JAVA_HOME", "LANG", "TZ", "TMPDIR", "JAVA_TOOL_OPTIONS")
        if key in os.environ
    }
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(argument) for argument in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=home,
            env={**kept, "HOME": str(home), **environment},
            start_new_session=True,
        )
    _children[child.pid] = child
    stat = _stat(child.pid)  # exists even if the process has ended: it is not collected yet
    if stat is None:
        raise ServerError(f"process {child.pid} vanished")
    return Process(child.pid, stat[1], _boot())


def alive(process: Process) -> bool:
    """Whether this process still runs; another process with its pid does not count."""
    if process.pid in _children:
        _children[process.pid].poll()
    stat = _stat(process.pid)
    return stat is not None and stat[0] not in "ZX" and stat[1] == process.started and process.boot == _boot()


def stop(process: Process, patience_seconds: float) -> bool:
    """End the process by SIGTERM, and by SIGKILL if it takes too long. Returns whether SIGTERM was enough."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        if not alive(process):  # checked after the descriptor is open: now the pid cannot be reused
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # it may be stopped
        if _ends(descriptor, patience_seconds):
            return True
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        if not _ends(descriptor, 10.0):
            raise ServerError(f"process {process.pid} survives SIGKILL")
        return False
    except PermissionError:
        raise ServerError(f"process {process.pid} belongs to another user; stop it as that user") from None
    finally:
        os.close(descriptor)
        alive(process)  # collects it


def _ends(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)  # readable once the process has ended
    return bool(poll.poll(seconds * 1000))


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time of a process, see proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _raise_file_limit() -> None:
    """Kafka and Milvus hold many files open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
