"""A full or read-only disk gives a clear error and corrupts nothing; with free space, the same command succeeds."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.conftest import Here
from tests.support.commands import Folder, children
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance


@pytest.fixture
def small_disk(prepared: Folder, tmp_path: Path) -> Iterator[Folder]:
    """A data folder on a file system of 8 MiB in memory."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if os.geteuid() != 0 or _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mounted)) != 0:
        pytest.skip("only root may mount the small file system of this test")
    try:
        yield Folder.copied(prepared, mounted / "data")
    finally:
        wait_for(lambda: subprocess.run(["umount", str(mounted)], check=False).returncode == 0, "the disk to be idle")


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode


def _fill(folder: Folder, leave_bytes: int) -> Path:
    filler = folder.path.parent / "filler"
    free = shutil.disk_usage(folder.path).free
    with suppress(OSError):
        filler.write_bytes(b"\0" * max(0, free - leave_bytes))
    return filler


def _free_space(folder: Folder, filler: Path) -> None:
    filler.unlink()
    assert _mount("-o", "remount,size=64m", str(folder.path.parent)) == 0


def _documents(count: int) -> bytes:
    """Documents of 20,000 random hex digits each, which no store can compress much."""
    texts = [f"Document {number}: {os.urandom(10_000).hex()}" for number in range(count)]
    lines = (
        {"doc_id": f"doc-{number}", "title": "T", "source_type": "text", "chunks": [{"content": text}]}
        for number, text in enumerate(texts)
    )
    return "\n".join(map(json.dumps, lines)).encode()


def test_write_and_run_fail_cleanly_on_a_full_disk(small_disk: Folder) -> None:
    documents = _documents(150)  # two batches
    filler = _fill(small_disk, leave_bytes=2_700_000)

    outcome = small_disk.run("write", "-", stdin=documents)

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "rag-outbox: metadata database: database or disk is full\n"
    assert small_disk.sql("PRAGMA integrity_check") == [("ok",)]
    assert small_disk.sql("SELECT count(*) FROM documents") == [(100,)]  # of the committed batch
    assert small_disk.sql("SELECT count(*) FROM outbox") == [(100,)]

    _free_space(small_disk, filler)
    facts = small_disk.succeed("write", "-", stdin=documents)
    assert (facts["written"], facts["unchanged"]) == (50, 100)
    filler = _fill(small_disk, leave_bytes=700_000)

    outcome = small_disk.run("run", "--until-idle", "--give-up-seconds", "1")

    assert (outcome.status, outcome.out) == (1, "")
    assert "No space left on device" in outcome.err or "database or disk is full" in outcome.err
    assert re.fullmatch(r"rag-outbox: gave up after 1 s: .*; 150 events wait", outcome.err.splitlines()[-1])
    assert small_disk.sql("PRAGMA integrity_check") == [("ok",)]
    assert small_disk.sql("SELECT count(*) FROM outbox") == [(150,)]

    _free_space(small_disk, filler)
    assert small_disk.succeed("run", "--until-idle") == {"events": 150}
    small_disk.assert_in_step()


def test_invariant_8_run_continues_after_a_full_disk_without_loss(small_disk: Folder) -> None:
    """Milvus Lite 3.2.2 alone acknowledges rows that a restart loses, after a write to its log failed."""
    small_disk.succeed("write", "-", stdin=_documents(40))
    filler = _fill(small_disk, leave_bytes=700_000)

    with small_disk.start("run") as run:
        wait_for(lambda: re.search("Milvus: .*No space left on device", run.err), "run to report it")
        _free_space(small_disk, filler)
        wait_for(lambda: small_disk.sql("SELECT count(*) FROM outbox") == [(0,)], "every event to be applied")
        (milvus_lite,) = children(run.pid)
        os.kill(milvus_lite, signal.SIGKILL)

    small_disk.assert_in_step()


@pytest.mark.parametrize("arguments", [["write", "-"], ["run", "--until-idle"], ["init"], ["status"]])
def test_commands_refuse_a_read_only_disk(arguments: list[str], small_disk: Folder, here: Here) -> None:
    assert _mount("-o", "remount,ro", str(small_disk.path.parent)) == 0

    outcome = here(small_disk, *arguments)

    reason = f"the folder {small_disk.path} cannot be written to"
    assert (outcome.status, outcome.err) == (1, f"rag-outbox: {reason}\n")
