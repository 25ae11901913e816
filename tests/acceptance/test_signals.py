"""`rag-outbox run` ends with status 0 after the batch in flight when a supervisor or Ctrl-C asks it to."""

import json
import os
import signal
import subprocess
from collections.abc import Callable

import pytest

from tests.commands import Folder
from tests.waiting import wait_for

pytestmark = pytest.mark.acceptance


def _to_the_process(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)


def _to_the_terminal(process: subprocess.Popen[str]) -> None:
    """As Ctrl-C does: every process of the group gets it, Milvus Lite too."""
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("stop", [_to_the_process, _to_the_terminal], ids=["SIGTERM", "SIGINT"])
def test_run_finishes_its_batch_when_asked_to_stop(
    stop: Callable[[subprocess.Popen[str]], None], folder: Folder
) -> None:
    documents = [
        {"doc_id": f"doc-{number}", "title": "T", "source_type": "text", "chunks": [{"content": f"Words {number}."}]}
        for number in range(700)  # more than a batch
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, documents)).encode())

    with folder.start("run", "--json", new_group=True) as process:
        wait_for(lambda: folder.sql("SELECT count(*) FROM documents WHERE status = 'completed'") > [(0,)], "a batch")
        stop(process)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, err) == (0, "")
    ((completed,),) = folder.sql("SELECT count(*) FROM documents WHERE status = 'completed'")
    assert completed in {500, 700}
    assert json.loads(out) == {"events": completed}
    assert folder.sql("SELECT count(*) FROM outbox") == [(700 - completed,)]
    assert not (folder.path / "run.json").exists()
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()
