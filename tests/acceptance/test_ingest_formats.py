"""`rag-outbox ingest` of every format: a question finds each file, or the file is named with a reason."""

import json
from importlib import util
from pathlib import Path

import pytest

from producer.processing.extract import formats, ocr
from tests.acceptance.conftest import Here
from tests.support.commands import Folder
from tests.support.sample_files import LEAVE, picture_of, png, write_excel, write_pdf, write_word

pytestmark = pytest.mark.acceptance

KINDS = [("image", 1)] * ocr.is_installed() + [("pdf", 1), ("table", 2), ("text", 2), ("webpage", 1), ("word", 1)]
SCANNED = "The spare key is behind the clock."


@pytest.fixture
def office(tmp_path: Path) -> Path:
    office = tmp_path / "office"
    office.mkdir()
    pages = ["The coffee machine needs to be cleaned every Friday.", "Filters are in the left cupboard."]
    write_pdf(office / "coffee.pdf", pages, title="Coffee machine")
    write_word(office / "leave.docx", picture=picture_of("A chart"))
    write_excel(office / "prices.xlsx", {"Prices": [["Item", "Price"], ["Bicycle", 250], ["Helmet", 40]]})
    (office / "rooms.csv").write_text("room,seats\nAtlantic,12\nPacific,40\n")
    (office / "parking.html").write_text("<html><body><h1>Parking</h1><p>Visitors park behind the house.</p></body>")
    (office / "notes.txt").write_text("The printer is on the second floor.")
    (office / "guide.md").write_text("# Guide\n\nWelcome to the company.\n")
    if ocr.is_installed():
        (office / "key.png").write_bytes(png(picture_of(SCANNED)))
    return office


def test_every_format_is_found_by_a_question(folder: Folder, office: Path, here: Here) -> None:
    facts = here(folder, "ingest", "office", "--json").facts
    assert (facts["written"], facts["failed"], facts["incomplete"]) == (len([*office.iterdir()]), [], [])
    written = facts["by_type"]
    assert {name: counts["documents"] for name, counts in written.items()} == dict(KINDS)
    assert (written["table"]["tables"], written["word"]["tables"], written["word"]["images"]) == (2, 1, 1)
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()

    questions = {
        "when must the coffee machine be cleaned": "Coffee machine",
        "paid leave of an employee": "Leave policy",
        "what does a bicycle cost": "prices",
        "where do visitors park": "Parking",
    } | ({"where is the spare key": "key"} if ocr.is_installed() else {})
    for question, title in questions.items():
        hits = here(folder, "search", question, "--limit", "1", "--json").facts["hits"]
        assert [hit["title"] for hit in hits] == [title], question

    kinds = "SELECT source_type, count(*) FROM documents GROUP BY source_type ORDER BY source_type"
    assert folder.sql(kinds) == KINDS
    assert folder.sql("SELECT page_count FROM documents WHERE source_type = 'pdf'") == [(2,)]
    rows = folder.sql(
        "SELECT vector_level, modal_type, chunk_strategy, count(DISTINCT associate_id), count(parent_chunk_id) > 0"
        " FROM chunks JOIN documents USING (doc_id) WHERE title = 'prices' GROUP BY 1, 2, 3 ORDER BY 1"
    )
    levels = "table-levels"
    assert rows == [
        ("cell", "table", levels, 1, 1),
        ("col", "table", levels, 1, 1),
        ("row", "table", levels, 1, 1),
        ("table", "table", levels, 1, 0),
        ("text", "text", "markdown-headings", 0, 0),
    ]
    objects = folder.objects()
    [text] = [content for key, content in objects.items() if key.startswith("processed-data/extracted-text/coffee-")]
    assert text == b"The coffee machine needs to be cleaned every Friday.\n\nFilters are in the left cupboard."
    [table] = [content for key, content in objects.items() if key.startswith("processed-data/tables/prices-")]
    rows_of_table = [["Item", "Price"], ["Bicycle", "250"], ["Helmet", "40"]]
    assert json.loads(table) == {"caption": "Prices", "has_header": True, "rows": rows_of_table}
    [image] = [key for key in objects if key.startswith("processed-data/images/")]
    assert image.startswith("processed-data/images/leave-")
    assert image.endswith("/img_1.png")
    assert here(folder, "ingest", "office", "--json").facts["unchanged"] == facts["written"]


def test_strategy_is_chosen(folder: Folder, office: Path, here: Here) -> None:
    for path in office.iterdir():
        if path.suffix not in (".md", ".pdf"):
            path.unlink()
    chosen = "SELECT DISTINCT chunk_strategy FROM chunks ORDER BY 1"
    here(folder, "ingest", "office")
    assert folder.sql(chosen) == [("markdown-headings",), ("size-overlap",)]
    for strategy in ("sentence", "semantic", "parent-child"):
        assert here(folder, "ingest", "office", "--strategy", strategy, "--json").facts["unchanged"] == 2
        facts = here(folder, "ingest", "office", "--strategy", strategy, "--force", "--json").facts
        assert facts["written"] == 2
        assert folder.sql(chosen) == [(strategy,)]
    refused = here(folder, "ingest", "office", "--strategy", "best")
    assert refused.status == 2
    assert "--strategy 'best': choose one of size-overlap, markdown-headings, sentence, semantic, " in refused.err


def test_damaged_file_and_missing_extra_are_named(
    folder: Folder, office: Path, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "mammoth" else found(name))
    (office / "coffee.pdf").write_bytes((office / "coffee.pdf").read_bytes()[:500])
    (office / "key.png").unlink(missing_ok=True)

    outcome = here(folder, "ingest", "office", "--json")

    assert outcome.status == 1
    assert outcome.facts["written"] == 5
    damaged, missing = outcome.facts["failed"]
    assert damaged.startswith(f"{office}/coffee.pdf: damaged: ")
    extra = "a Word file is read with the extra office: pip install 'rag-outbox[office]'"
    assert missing == f"{office}/leave.docx: {extra}"
    assert folder.sql("SELECT count(*) FROM documents") == [(5,)]


def test_what_is_left_out_of_a_file_is_said(folder: Folder, tmp_path: Path, here: Here) -> None:
    sheets = {"Open": [["a", "b"], ["c", LEAVE]], "Secret": [["x", "y"]]}
    book = write_excel(tmp_path / "book.xlsx", sheets, hidden=["Secret"])
    outcome = here(folder, "ingest", "book.xlsx", "--json")
    left_out = f"{book}: left out: hidden sheet 'Secret'"
    assert (outcome.status, outcome.facts["incomplete"]) == (0, [left_out])
    assert outcome.err == f"incomplete: {left_out}\n"
