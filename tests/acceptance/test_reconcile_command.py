"""`rag-outbox reconcile`: report, exit status, preview, repair, and the process with metrics."""

import json

import pytest

from tests.acceptance.conftest import Here
from tests.support import prometheus
from tests.support.commands import Folder
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance

KEY = "raw-files/pdf/2020/01/02/nobody.pdf"


@pytest.fixture(scope="module")
def written(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Three documents that every store holds, and an object of a document that nobody knows."""
    folder = Folder.copied(prepared, tmp_path_factory.mktemp("written") / "data")
    lines = [
        {"doc_id": f"d{number}", "title": "t", "source_type": "text", "chunks": [{"content": f"text {number}"}]}
        for number in range(3)
    ]
    folder.succeed("write", "-", stdin="\n".join(map(json.dumps, lines)).encode())
    folder.succeed("run", "--until-idle")
    return folder


@pytest.fixture
def folder(written: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.copied(written, tmp_path_factory.mktemp("copy") / "data")


def damage(folder: Folder) -> None:
    path = folder.path / "objects" / "rag-knowledge-base" / KEY
    path.parent.mkdir(parents=True)
    path.write_bytes(b"stray")


def test_healthy_stores_end_with_0(folder: Folder, here: Here) -> None:
    outcome = here(folder, "reconcile", "--full", "--vectors")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines()[-1] == "Healthy: no differences."
    facts = here(folder, "reconcile", "--json").facts
    assert facts["compared"] == {"milvus": 3, "minio": 3, "mysql": 3}
    assert (facts["healthy"], facts["differences"], facts["kinds"]) == (True, 0, [])


def test_damage_is_reported_previewed_and_repaired(folder: Folder, here: Here) -> None:
    damage(folder)
    outcome = here(folder, "reconcile")
    assert outcome.status == 3
    assert f"orphaned in minio: nobody, {KEY}: no such document" in outcome.out
    assert "→ See what a repair would do: rag-outbox reconcile --repair." in outcome.out

    before = folder.sql("SELECT * FROM documents"), folder.sql("SELECT * FROM sink_states")
    preview = here(folder, "reconcile", "--repair")
    assert preview.status == 3
    assert "    remove from every sink, as a deleted document: 1: nobody" in preview.out
    assert (folder.sql("SELECT * FROM documents"), folder.sql("SELECT * FROM sink_states")) == before

    repaired = here(folder, "reconcile", "--repair", "--yes", "--json")
    assert (repaired.status, repaired.facts["repaired"]) == (0, {"removed": 1})
    folder.succeed("run", "--until-idle")
    assert here(folder, "reconcile", "--full").status == 0
    assert KEY not in folder.objects()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--yes"], "--yes and --force go with --repair"),
        (["--every", "60", "--repair"], "--every only reports: repair in a run of its own"),
        (["--sample", "2"], "less than or equal to 1"),
    ],
)
def test_wrong_options_are_named(folder: Folder, here: Here, arguments: list[str], words: str) -> None:
    outcome = here(folder, "reconcile", *arguments)
    assert outcome.status == 2
    assert words in " ".join(outcome.err.replace("│", "").split())


def test_unknown_sink_is_named(folder: Folder, here: Here) -> None:
    outcome = here(folder, "reconcile", "--sink", "cache")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "rag-outbox: there is no sink 'cache' in the table sinks; there are: milvus, minio\n"


def test_process_runs_again_and_serves_what_it_found(folder: Folder) -> None:
    port = prometheus.free_port()
    series = 'rag_outbox_reconcile_differences{kind="orphaned",store="minio"}'

    def metrics() -> dict[str, str]:
        text = prometheus.get(port, "/metrics").data.decode()
        return dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))

    with folder.start("reconcile", "--every", "1", metrics_port=str(port)) as process:
        wait_for(lambda: prometheus.answers(port, "/metrics"), "the process to serve")
        wait_for(lambda: metrics().get(series) == "0.0", "the first run")
        damage(folder)
        wait_for(lambda: metrics().get(series) == "1.0", "a run that finds it")
        assert float(metrics()["rag_outbox_reconcile_last_success_timestamp_seconds"]) > 0
        process.terminate()
        ended = process.ended()
    assert ended.status == 0
    assert f"difference store=minio kind=orphaned doc_id=nobody key={KEY}" in ended.err
