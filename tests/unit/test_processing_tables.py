"""Tables become chunks on four levels that know each other; together with the text they lose nothing."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer import Document
from producer.documents import Chunk
from producer.processing.chunk.document import chunk_document
from producer.processing.chunk.parent_child import ParentChild
from producer.processing.chunk.port import ChunkStrategy
from producer.processing.chunk.size_overlap import SizeOverlap
from producer.processing.chunk.strategies import make_strategy
from producer.processing.chunk.table_levels import LevelLimits, TableChunk, chunk_table
from producer.processing.extract.assemble import assemble
from producer.processing.extract.limits import DEFAULT_LIMITS
from producer.processing.extract.port import Content, Extracted, Passage, Table
from producer.processing.extract.tables import make_table, markdown_lines
from producer.validation import validate
from tests.support.sample_files import DAYS

pytestmark = pytest.mark.unit

STRATEGY = SizeOverlap()


def table_of(rows: Sequence[Sequence[str]], caption: str | None = None) -> Table:
    table = make_table(rows, caption=caption)
    assert table is not None
    return table


def extracted(*blocks: Passage | Table, others: Sequence[Table] = ()) -> Extracted:
    text, tables, scanned = assemble(Content(blocks, is_markdown=True, tables=others), DEFAULT_LIMITS)
    return Extracted(text, "word", "T", "x/y", None, "0" * 64, 1, tables=tables, scanned=scanned)


def levels(chunks: Sequence[Chunk | TableChunk]) -> dict[str, int]:
    return dict(Counter(chunk.vector_level for chunk in chunks))


def test_table_has_chunks_on_four_levels() -> None:
    found = chunk_table(table_of([["City", "Days", "Paid"], ["Ulm", "30", "yes"], ["Bonn", "", "no"]], "Leave"))
    assert found == [
        TableChunk("| City | Days | Paid |\n| --- | --- | --- |\n| Ulm | 30 | yes |\n| Bonn |  | no |", "table"),
        TableChunk("Leave: City: Ulm; Days: 30; Paid: yes", "row", parent=0),
        TableChunk("Leave: Ulm, Days: 30", "cell", parent=1),
        TableChunk("Leave: Ulm, Paid: yes", "cell", parent=1),
        TableChunk("Leave: City: Bonn; Paid: no", "row", parent=0),
        TableChunk("Leave: Bonn, Paid: no", "cell", parent=4),
        TableChunk("Leave: City: Ulm; Bonn", "col", parent=0),
        TableChunk("Leave: Days: 30", "col", parent=0),
        TableChunk("Leave: Paid: yes; no", "col", parent=0),
    ]


def test_table_without_header_has_rows_of_plain_values() -> None:
    found = chunk_table(table_of([["1", "2"], ["3", "4"]]))
    assert [chunk.content for chunk in found if chunk.vector_level == "row"] == ["1; 2", "3; 4"]
    assert found[0].content == "| 1 | 2 |\n| 3 | 4 |"


def test_header_is_a_first_row_of_different_words() -> None:
    assert table_of([["a", "b"], ["c", "d"]]).has_header
    for rows in ([["a", "a"], ["c", "d"]], [["a", ""], ["c", "d"]], [["a", "2,5 %"], ["c", "d"]], [["a", "b"]]):
        assert not table_of(rows).has_header, rows


def test_large_table_is_cut_between_rows_under_its_header() -> None:
    rows = [["Number", "Square"], *([f"n{number}", f"{number * number} is the square"] for number in range(300))]
    found = chunk_table(table_of(rows))
    parts = [chunk for chunk in found if chunk.vector_level == "table"]
    assert len(parts) > 5
    for part in parts:
        assert part.content.startswith("| Number | Square |\n| --- | --- |\n| n")
        assert len(part.content) <= 1_000
    assert [line for part in parts for line in part.content.split("\n")[2:]] == markdown_lines(table_of(rows))[2:]
    for chunk in found:
        if chunk.vector_level == "row":
            assert chunk.parent is not None
            assert f"| {chunk.content.split('; ')[0].removeprefix('Number: ')} |" in found[chunk.parent].content


def test_levels_depend_on_the_size_of_the_table() -> None:
    table = table_of([["a", "b"], *([f"x{number}", f"y{number}"] for number in range(50))])
    assert levels(chunk_table(table, LevelLimits(row=102, col=102, cell=102))).keys() == {"table", "row", "col", "cell"}
    assert levels(chunk_table(table, LevelLimits(row=102, col=102, cell=101))).keys() == {"table", "row", "col"}
    assert levels(chunk_table(table, LevelLimits(row=102, col=101, cell=101))).keys() == {"table", "row"}
    assert levels(chunk_table(table, LevelLimits(row=101, col=101, cell=101))).keys() == {"table"}


def test_long_cell_is_cut_and_kept_whole() -> None:
    found = chunk_table(table_of([["Name", "Text"], ["long", "word " * 1_000], ["short", "one"]]))
    assert max(len(chunk.content) for chunk in found) <= 1_000
    for level in ("table", "row", "col"):
        assert sum(chunk.content.count("word") for chunk in found if chunk.vector_level == level) == 1_000, level


def test_document_has_text_and_tables_in_order() -> None:
    first, second = table_of(DAYS), table_of([["Item", "Price"], ["Cup", "2"]])
    found = extracted(Passage("Before."), first, Passage("Between."), others=[second])
    chunks = chunk_document("doc", found, STRATEGY)
    texts = [chunk for chunk in chunks if chunk.vector_level == "text"]
    assert [(chunk.content, chunk.strategy, chunk.modal_type) for chunk in texts] == [
        ("Before.", "size-overlap", "text"),
        ("Between.", "size-overlap", "text"),
    ]
    assert all(chunk.associate_id is None for chunk in texts)
    tables = [chunk for chunk in chunks if chunk.vector_level != "text"]
    assert {chunk.modal_type for chunk in tables} == {"table"}
    assert {chunk.strategy for chunk in tables} == {"table-levels"}
    names = [chunk.associate_id for chunk in tables]
    assert len(set(names)) == 2
    assert names == sorted(names, key=names.index)  # the chunks of a table stand together
    assert chunks.index(texts[1]) > max(index for index, chunk in enumerate(chunks) if chunk.associate_id == names[0])
    for chunk in chunks:
        if chunk.parent is not None:
            parent = chunks[chunk.parent]
            assert (parent.associate_id, parent.vector_level) == (
                chunk.associate_id,
                "row" if chunk.vector_level == "cell" else "table",
            )
        if chunk.start_char is not None:
            assert found.text[chunk.start_char : chunk.start_char + len(chunk.content)] == chunk.content


def test_table_keeps_its_name_when_its_rows_change() -> None:
    def name(doc_id: str, rows: Sequence[Sequence[str]]) -> str | None:
        return chunk_document(doc_id, extracted(Passage("Text."), table_of(rows)), STRATEGY)[1].associate_id

    assert name("a", DAYS) == name("a", [*DAYS, ["Spain", "22"]])
    assert name("a", DAYS) != name("b", DAYS)
    twice = chunk_document("a", extracted(table_of(DAYS), table_of(DAYS)), STRATEGY)
    assert len({chunk.associate_id for chunk in twice}) == 2


def test_scanned_text_is_marked_as_image() -> None:
    found = extracted(Passage("Typed."), Passage("Scanned words.", is_scanned=True), Passage("More.", is_scanned=True))
    assert found.scanned == ((8, len(found.text)),)
    [whole] = chunk_document("a", found, STRATEGY)
    assert whole.modal_type == "text"  # a part of it is typed
    only = extracted(Passage("Scanned words.", is_scanned=True))
    assert [chunk.modal_type for chunk in chunk_document("a", only, STRATEGY)] == ["image"]


def test_children_name_their_parents_by_position_in_the_document() -> None:
    text = "".join(f"This is sentence number {number} of a long text. " for number in range(200))
    chunks = chunk_document("a", extracted(table_of(DAYS), Passage(text), table_of(DAYS)), ParentChild())
    children = [chunk for chunk in chunks if chunk.vector_level == "text" and chunk.parent is not None]
    assert len(children) > 10
    for child in children:
        assert child.parent is not None
        assert child.content in chunks[child.parent].content


CELL = st.text("ab|1 \n中é", max_size=12)
BLOCK = st.one_of(
    st.text("ab. \n#|中", max_size=60).map(Passage),
    st.lists(st.lists(CELL, min_size=1, max_size=4), min_size=1, max_size=5)
    .map(make_table)
    .filter(lambda table: table is not None),
)


@pytest.mark.parametrize("strategy", [STRATEGY, ParentChild(), make_strategy("sentence")], ids=lambda each: each.name)
@settings(deadline=None, max_examples=50)  # a shared machine may stall
@given(blocks=st.lists(BLOCK, max_size=6), others=st.lists(BLOCK, max_size=2))
def test_every_document_is_accepted_by_the_writer(
    strategy: ChunkStrategy, blocks: list[Passage | Table], others: list[Passage | Table]
) -> None:
    found = extracted(*blocks, others=[block for block in others if isinstance(block, Table)])
    chunks = chunk_document("doc", found, strategy)
    validate(Document(doc_id="doc", title="T", source_type="word", chunks=chunks), "model", 2)
    covered = {
        at
        for chunk in chunks
        if chunk.start_char is not None
        for at in range(chunk.start_char, chunk.start_char + len(chunk.content))
    }
    assert all(at in covered for at, character in enumerate(found.text) if not character.isspace())
