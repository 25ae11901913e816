"""The chunks of a whole file: its text cut by a strategy, and its tables on their levels."""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence

from producer.documents import Chunk
from producer.processing.chunk.port import ChunkStrategy
from producer.processing.chunk.table_levels import DEFAULT_LEVELS, LevelLimits, TableChunk, chunk_table
from producer.processing.extract.port import Extracted, Table

TABLE_STRATEGY = "table-levels"  # the value of chunks.chunk_strategy
_LEVEL_CHUNKS = 50_000  # of all tables of a file; further tables get the level `table` alone
_TABLES_ALONE = LevelLimits(row=0, col=0, cell=0)


def chunk_document(doc_id: str, extracted: Extracted, strategy: ChunkStrategy) -> list[Chunk]:
    """The chunks of a file in the order of its text, without vectors; tables without a place in the text come last.

    The text of a table that has a place in the text is in the chunks of the table alone. All chunks of a table share an
    `associate_id`, which stays when the rows of the table change. `modal_type` is `table` for tables, `image` for text
    that was read from an image, otherwise `text`. Raises ValueError for text that UTF-8 cannot encode, and EmbedError.
    """
    chunks: list[Chunk] = []
    at, left = 0, _LEVEL_CHUNKS
    end = len(extracted.text)
    for table, associate_id in sorted(_named(doc_id, extracted.tables), key=lambda one: _place(one[0], end)):
        start = _place(table, end)
        chunks += _text_chunks(extracted, at, start, strategy, len(chunks))
        at = end if table.end is None else table.end
        levels = chunk_table(table, DEFAULT_LEVELS)
        if len(levels) > left:
            levels = chunk_table(table, _TABLES_ALONE)
        left -= len(levels)
        chunks += _table_chunks(levels, associate_id, len(chunks))
    return [*chunks, *_text_chunks(extracted, at, end, strategy, len(chunks))]


def _place(table: Table, end: int) -> int:
    return end if table.start is None else table.start


def _named(doc_id: str, tables: Sequence[Table]) -> Iterator[tuple[Table, str]]:
    """Each table with its `associate_id`: of its document, caption and first row, and how often these came before."""
    seen: Counter[tuple[str | None, tuple[str, ...]]] = Counter()
    for table in tables:
        key = (table.caption, table.rows[0])
        digest = hashlib.sha256(repr((doc_id, key, seen[key])).encode()).hexdigest()
        seen[key] += 1
        yield table, f"table-{digest[:32]}"


def _text_chunks(extracted: Extracted, start: int, end: int, strategy: ChunkStrategy, position: int) -> Iterator[Chunk]:
    for piece in strategy.chunk(extracted.text[start:end]):
        yield Chunk(
            content=piece.content,
            modal_type="image" if _is_scanned(extracted, start + piece.start, start + piece.end) else "text",
            parent=None if piece.parent is None else position + piece.parent,
            start_char=start + piece.start,
            strategy=strategy.name,
        )


def _table_chunks(levels: Sequence[TableChunk], associate_id: str, position: int) -> Iterator[Chunk]:
    for piece in levels:
        yield Chunk(
            content=piece.content,
            vector_level=piece.vector_level,
            modal_type="table",
            parent=None if piece.parent is None else position + piece.parent,
            associate_id=associate_id,
            start_char=piece.start,
            strategy=TABLE_STRATEGY,
        )


def _is_scanned(extracted: Extracted, start: int, end: int) -> bool:
    """Whether the whole span was read from images."""
    at = bisect_right(extracted.scanned, (start, len(extracted.text))) - 1
    return at >= 0 and end <= extracted.scanned[at][1]
