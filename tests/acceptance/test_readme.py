"""The README's snippet, run as it stands there."""

import re
from pathlib import Path

import pytest

from operations.init import init
from operations.settings import Settings
from schema.database.connection import connect
from schema.database.tables import documents, outbox

_README = Path(__file__).parents[2] / "README.md"


def test_the_snippet_for_an_upstream_service_writes_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init(Settings())
    Path("handbook.pdf").write_bytes(b"%PDF-1.7" + bytes(100_000))
    found = re.search(r"```python\n(.*?)```", _README.read_text(), re.DOTALL)
    assert found is not None
    snippet = found[1]
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 15
    last = "receipt.wait("
    assert last in snippet
    exec(snippet.partition(last)[0], {"embedded": [("a text", [1.0] * 256)]})  # nothing runs here that would apply it

    with connect("sqlite:///rag-outbox-data/metadata.db").connect() as connection:
        assert connection.execute(documents.select()).one().title == "Handbook"
        assert connection.execute(outbox.select()).one().aggregate_id == "handbook"
    staged = list(Path("rag-outbox-data/objects/rag-knowledge-base/temp").rglob("file"))
    assert [path.stat().st_size for path in staged] == [100_008]
