"""Known items: passages at random places, the questions for them, and the texts that are searched.

A passage is a run of 30 words at a random place of a paragraph, outside tables. It starts and ends where no strategy
looks for a place to cut. Of each file, some passages become questions of two kinds:

- `words`: half of the words of the passage, in another order, must find the passage.
- `context`: the first half of the passage is removed from the text before anything is chunked, and is the question; it
  must find the second half. So the words of the question are not in the text that is searched, only its subject is.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from producer.processing.extract.port import Extracted

WORDS_KIND, CONTEXT_KIND = QUESTION_KINDS = ("words", "context")
_PASSAGE = 30  # words
_HALF = _PASSAGE // 2
_LONGEST = 400  # characters of a passage; a longer one is no running text
_TRIES = 20  # places per file and item
_LEAST_PLAIN = 0.8  # of the words of a passage must be words of a language, not numbers or code
_GRAM = 8  # words: a passage whose first or last 8 words stand in a second place is no known item
_WORD = re.compile(r"\w+")
_PLAIN = re.compile(r"[^\W\d_]+")
_BLANK_LINE = re.compile(r"\n[ \t]*\n")

Span = tuple[int, int]
Gram = tuple[str, ...]


@dataclass(frozen=True)
class Item:
    """A known item: the place of the answer in the searched text of a file, and the question for it."""

    kind: str  # one of QUESTION_KINDS
    file: int
    start: int
    end: int
    question: str


@dataclass(frozen=True)
class Passage:
    file: int
    words: tuple[Span, ...]  # the place of each word in the extracted text


def choose_items(files: Sequence[Extracted], per_file: int, seed: int) -> tuple[list[Extracted], list[Item]]:
    """The files as they are searched, and the known items in them: up to `per_file` of each kind of question."""
    numbers = random.Random(seed)
    chosen = [_choose_passages(number, one, 2 * per_file, numbers) for number, one in enumerate(files)]
    repeated = _find_repeated(files, [passage for some in chosen for passage in some])
    searched: list[Extracted] = []
    items: list[Item] = []
    for number, (one, some) in enumerate(zip(files, chosen, strict=True)):
        known = [passage for passage in some if repeated.isdisjoint(_grams_of(one.text, passage))]
        hidden = known[: len(known) // 2]
        cuts = sorted((passage.words[0][0], passage.words[_HALF][0]) for passage in hidden)
        searched.append(cut_out(one, cuts))
        for passage in known:
            kind = CONTEXT_KIND if passage in hidden else WORDS_KIND
            items.append(_make_item(kind, number, one.text, passage, cuts, numbers))
    return searched, items


def cut_out(one: Extracted, cuts: Sequence[Span]) -> Extracted:
    """The file without these spans of its text; none of them may touch a table."""
    kept = [0, *(at for cut in cuts for at in cut), len(one.text)]
    text = "".join(one.text[start:end] for start, end in zip(kept[::2], kept[1::2], strict=True))
    tables = tuple(
        table
        if table.start is None or table.end is None
        else replace(table, start=moved(table.start, cuts), end=moved(table.end, cuts))
        for table in one.tables
    )
    scanned = tuple((moved(start, cuts), moved(end, cuts)) for start, end in one.scanned)
    return replace(one, text=text, tables=tables, scanned=scanned)


def moved(at: int, cuts: Sequence[Span]) -> int:
    """The place of a character after the spans before it were cut out."""
    return at - sum(min(end, at) - start for start, end in cuts if start < at)


def _choose_passages(number: int, one: Extracted, count: int, numbers: random.Random) -> list[Passage]:
    """Passages of a file that do not overlap, in random order."""
    paragraphs = [words for words in _paragraphs(one) if len(words) >= _PASSAGE]
    rooms = [len(words) - _PASSAGE + 1 for words in paragraphs]
    found: list[Passage] = []
    taken: list[Span] = []
    for _ in range(_TRIES * count if rooms else 0):
        (words,) = numbers.choices(paragraphs, rooms)
        first = numbers.randrange(len(words) - _PASSAGE + 1)
        run = tuple(words[first : first + _PASSAGE])
        start, end = run[0][0], run[-1][1]
        is_free = all(end <= before or after <= start for before, after in taken)
        if is_free and _is_running_text(one.text, run):
            found.append(Passage(number, run))
            taken.append((start, end))
        if len(found) == count:
            break
    return found


def _paragraphs(one: Extracted) -> Iterator[list[Span]]:
    """The words of each paragraph outside tables; the text of a PDF has a blank line only after a page."""
    tables = sorted(
        (table.start, table.end) for table in one.tables if table.start is not None and table.end is not None
    )
    edges = [0, *(edge for table in tables for edge in table), len(one.text)]
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        blanks = [match.span() for match in _BLANK_LINE.finditer(one.text, start, end)]
        places = [start, *(place for blank in blanks for place in blank), end]
        for first, last in zip(places[::2], places[1::2], strict=True):
            yield [match.span() for match in _WORD.finditer(one.text, first, last)]


def _is_running_text(text: str, words: Sequence[Span]) -> bool:
    plain = sum(_PLAIN.fullmatch(text, *word) is not None for word in words)
    return words[-1][1] - words[0][0] <= _LONGEST and plain >= _LEAST_PLAIN * len(words)


def _make_item(kind: str, file: int, text: str, passage: Passage, cuts: Sequence[Span], numbers: random.Random) -> Item:
    if kind == CONTEXT_KIND:
        answer = passage.words[_HALF:]
        question = text[passage.words[0][0] : passage.words[_HALF - 1][1]]
    else:
        answer = passage.words
        question = " ".join(text[slice(*word)] for word in numbers.sample(passage.words, _HALF))
    return Item(kind, file, moved(answer[0][0], cuts), moved(answer[-1][1], cuts), question)


def _grams_of(text: str, passage: Passage) -> set[Gram]:
    words = [text[slice(*word)] for word in passage.words]
    return {tuple(words[:_GRAM]), tuple(words[-_GRAM:])}


def _find_repeated(files: Sequence[Extracted], passages: Sequence[Passage]) -> set[Gram]:
    """Those of the passages' first and last words that stand in more than one place of all files."""
    counts = {gram: 0 for passage in passages for gram in _grams_of(files[passage.file].text, passage)}
    for one in files:
        words = _WORD.findall(one.text)
        for gram in zip(*(words[shift:] for shift in range(_GRAM)), strict=False):
            if gram in counts:
                counts[gram] += 1
    return {gram for gram, count in counts.items() if count > 1}
