"""`make drills`: which drills there are, and the result that each shows and keeps."""

import argparse
import importlib
from pathlib import Path

import pytest

from tests.drills import __main__ as drills
from tests.drills import result

pytestmark = pytest.mark.unit


def test_every_module_with_a_main_is_a_drill() -> None:
    assert {"kills", "rebuild", "reconcile", "tasks"} <= set(drills.find_names())
    assert not {"result", "__main__"} & set(drills.find_names())


class Parsed(Exception):
    """Raised where a drill asks for its servers."""


@pytest.mark.parametrize("name", drills.find_names())
def test_every_drill_takes_the_options_that_all_share(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_servers(options: argparse.Namespace) -> None:
        raise Parsed(str(options.servers))

    monkeypatch.setattr(result, "find_servers", find_servers)
    options = result.arguments_of(argparse.Namespace(servers=Path("nowhere"), keep=True))
    monkeypatch.setattr("sys.argv", [name, *options])
    with pytest.raises(Parsed, match="nowhere"):
        importlib.import_module(f"tests.drills.{name}").main()


@pytest.mark.parametrize("succeeded", [True, False])
def test_result_is_shown_and_kept(
    succeeded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(result, "RESULTS", tmp_path / "results")
    facts = {"chunks": "1,000", "differences": "0"}
    assert result.show("reconcile", facts, succeeded=succeeded, keep=False) == int(not succeeded)
    assert ("reconcile: succeeded" if succeeded else "reconcile: FAILED") in capsys.readouterr().out
    assert not result.RESULTS.exists()

    result.show("reconcile", facts, succeeded=succeeded, keep=True)
    page = (result.RESULTS / "reconcile.md").read_text()
    assert "| chunks | 1,000 |\n| differences | 0 |\n" in page
    assert (": succeeded." if succeeded else ": failed.") in page


def test_servers_of_the_tests_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "servers.env"
    path.write_text("RAG_OUTBOX_MILVUS_URI=http://one:1\nRAG_OUTBOX_TEST_REPLICA_URL=two\n")
    monkeypatch.setenv("RAG_OUTBOX_TEST_SERVERS", str(path))
    found = result.find_servers(argparse.Namespace(servers=tmp_path, keep=False))
    assert found == {"RAG_OUTBOX_MILVUS_URI": "http://one:1"}
