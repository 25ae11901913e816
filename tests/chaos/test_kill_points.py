"""Crash safety: a process dies at every step of relay and sinks; the next process brings all three stores in step.

Kill points are named only here: dying_run.py wraps a function so that the process dies before or after a call.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.dying_run import DIED

pytestmark = pytest.mark.chaos

STEPS = [
    "relays.direct.DirectRelay.claim",
    "relays.direct.DirectRelay.apply",
    "relays.direct.DirectRelay.settle",
    "consumers.applier.Applier._decode",
    "consumers.applier.select_changes",
    "consumers.applier.Applier._apply",
    "consumers.marking.Marking._mark",
    "consumers.marks.lock_documents",
    "consumers.marks.mark_applied",
    "consumers.milvus.marks.mark_chunks_synced",
    "consumers.milvus.marks.confirm_tombstones",
    "consumers.minio.marks.confirm_removed_files",
    "consumers.milvus.sink.MilvusSink._write",
    "consumers.milvus.sink.MilvusSink._relabel",
    "consumers.milvus.sink.MilvusSink._delete",
    "consumers.milvus.upsert.upsert",
    "pymilvus.MilvusClient.delete",
    "consumers.minio.sink.MinioSink._write",
    "consumers.minio.sink.MinioSink._remove",
    "consumers.minio.sink.MinioSink._unstage",
    "consumers.minio.sink.MinioSink._put",
    "schema.object_store.directory.DirectoryStore.put",
    "schema.object_store.directory.DirectoryStore.copy",
    "schema.object_store.directory.DirectoryStore.remove",
    "schema.object_store.directory.DirectoryStore._replace",
    "os.fsync",
    "pathlib.Path.replace",
]
FIRST_STEPS = [  # of the first start
    ("pymilvus.MilvusClient.create_collection", 1),
    ("pymilvus.MilvusClient.create_index", 1),
    ("pymilvus.MilvusClient.create_index", 2),
    ("pymilvus.MilvusClient.create_index", 3),
    ("pymilvus.MilvusClient.create_alias", 1),
    ("pymilvus.MilvusClient.load_collection", 1),
    ("schema.object_store.directory.DirectoryStore.ensure", 1),
    ("consumers.marks.mark_applied", 1),
]


@dataclass
class Runs:
    """Starts processes on a data folder and waits for their end."""

    server: subprocess.Popen[str]

    def __call__(self, data: Path, **order: Any) -> int:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps({"data": str(data), **order}) + "\n")
        self.server.stdin.flush()
        answer = json.loads(self.server.stdout.readline())
        assert answer["status"] in {0, DIED}, answer["error"]
        return int(answer["status"])


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    command = [sys.executable, "-m", "tests.chaos.dying_run", "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Runs(server)
        assert server.stdin is not None
        server.stdin.close()


@pytest.fixture(scope="module")
def templates(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data folders to copy: in "applied" the sinks hold a state before the pending events, in "fresh" nothing."""
    folders = {}
    for name in ("applied", "fresh"):
        folders[name] = tmp_path_factory.mktemp(name)
        assert runs(folders[name], prepare=name) == 0
    return folders


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_process_leaves_nothing_lost_doubled_or_left_over(
    runs: Runs, templates: dict[str, Path], tmp_path: Path, step: str, when: str
) -> None:
    data = shutil.copytree(templates["applied"], tmp_path / "data")
    point = f"{step}:{when}"
    assert runs(data, point=point, hit=2) == DIED
    assert runs(data, point=point, hit=1) == DIED
    assert runs(data) == 0  # compares the three stores


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("step", "hit"), FIRST_STEPS)
def test_process_killed_during_first_start_can_start_again(
    runs: Runs, templates: dict[str, Path], tmp_path: Path, step: str, when: str, hit: int
) -> None:
    data = shutil.copytree(templates["fresh"], tmp_path / "data")
    assert runs(data, point=f"{step}:{when}", hit=hit) == DIED
    if runs(data, point=f"{step}:{when}", hit=hit) == DIED:  # otherwise this step is already done
        assert runs(data) == 0


@pytest.mark.parametrize("template", ["applied", "fresh"])
def test_process_without_kills_reaches_the_same_state(
    runs: Runs, templates: dict[str, Path], tmp_path: Path, template: str
) -> None:
    data = shutil.copytree(templates[template], tmp_path / "data")
    assert runs(data) == 0
    assert runs(data) == 0  # it has nothing to do


def test_command_line_kills_at_the_given_point(templates: dict[str, Path], tmp_path: Path) -> None:
    data = shutil.copytree(templates["applied"], tmp_path / "data")
    command = [sys.executable, "-m", "tests.chaos.dying_run", "--data", str(data)]
    point = ["--point", "relays.direct.DirectRelay.settle:after", "--hit", "2"]
    assert subprocess.run([*command, *point], check=False).returncode == DIED
    assert subprocess.run(command, check=False).returncode == 0
