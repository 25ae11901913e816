"""The README's snippet and commands, run as they stand there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from operations.init import init
from operations.settings import Settings
from schema.database.connection import connect
from schema.database.tables import documents, outbox
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance

_README = Path(__file__).parents[2] / "README.md"


def test_readme_snippet_writes_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init(Settings())
    Path("handbook.pdf").write_bytes(b"%PDF-1.7" + bytes(100_000))
    found = re.search(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    assert found is not None
    snippet = found[1]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 15
    last = "receipt.wait("
    assert last in snippet
    exec(snippet.partition(last)[0], {"embedded": [("a text", [1.0] * 256)]})  # without a relay the wait would time out

    with connect("sqlite:///rag-outbox-data/metadata.db").connect() as connection:
        assert connection.execute(documents.select()).one().title == "Handbook"
        assert connection.execute(outbox.select()).one().aggregate_id == "handbook"
    staged = list(Path("rag-outbox-data/objects/rag-knowledge-base/temp").rglob("file"))
    assert [path.stat().st_size for path in staged] == [100_008]


def test_readme_commands_work_in_their_order(tmp_path: Path) -> None:
    shutil.copytree(_README.parent / "docs", tmp_path / "docs")
    folder = Folder(tmp_path / "data")
    lines = re.findall(r"^    rag-outbox (.*)$", _README.read_text(), re.MULTILINE)
    outcomes = {}
    for line in lines:
        arguments = shlex.split(line, comments=True)
        outcomes[arguments[0]] = folder.run(*arguments)
    assert list(outcomes) == ["init", "ingest", "run", "search", "status"]
    assert [(outcome.status, outcome.err) for outcome in outcomes.values()] == [(0, "")] * 5
    assert "A search right after a commit does not find the document yet" in outcomes["search"].out
    assert "Pending events: 0" in outcomes["status"].out
