"""Chunks are slices of the text that lose no word, keep their limits and end at natural boundaries."""

import random
import re
import statistics
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.processing.chunk.markdown_headings import MarkdownHeadings
from producer.processing.chunk.port import ChunkStrategy, TextChunk
from producer.processing.chunk.size_overlap import SizeOverlap
from producer.processing.chunk.slicer import ChunkLimits
from tests.support.texts import TEXT, long_text

pytestmark = pytest.mark.unit

HUNDRED = "nine char " * 10  # 100 characters of body, 99 without the last space


def chunk(text: str, *, markdown: bool = True, **limits: int) -> list[TextChunk]:
    strategy: ChunkStrategy = (MarkdownHeadings if markdown else SizeOverlap)(ChunkLimits(**limits))
    return strategy.chunk(text)


def contents(text: str, max_chars: int, overlap_chars: int = 0, *, max_bytes: int = 8192) -> list[str]:
    chunks = chunk(text, max_chars=max_chars, overlap_chars=overlap_chars, max_bytes=max_bytes)
    return [each.content for each in chunks]


@pytest.mark.parametrize("text", ["", " ", "\n\n\t ", "\u00a0\u3000"])
def test_blank_text_has_no_chunks(text: str) -> None:
    assert chunk(text) == []
    assert chunk(text, markdown=False) == []


def test_short_text_is_one_trimmed_chunk() -> None:
    assert chunk("\n  two words \n") == [TextChunk("two words", start=3, end=12, headings=())]


def test_cuts_after_a_paragraph_rather_than_a_line() -> None:
    assert contents("one two three\n\nfour\nfive six seven", 26) == ["one two three", "four\nfive six seven"]
    assert contents("one two three\n \t\nfour\nfive six seven", 26) == ["one two three", "four\nfive six seven"]


def test_cuts_after_a_line_rather_than_a_sentence() -> None:
    assert contents("one two three\nfour. five six seven", 24) == ["one two three", "four. five six seven"]


def test_cuts_after_a_sentence_rather_than_a_word() -> None:
    text = 'Is v1.2 out? "Yes." Then install it'
    assert contents(text, 25) == ['Is v1.2 out? "Yes."', "Then install it"]


def test_cuts_after_last_word_that_fits() -> None:
    assert contents("one two three four five six", 14) == ["one two three", "four five six"]
    assert contents("one two three four five six", 13) == ["one two three", "four five six"]
    assert contents("one two three four", 12) == ["one two", "three four"]


def test_early_paragraph_does_not_make_small_chunk() -> None:
    assert contents("one\n\ntwo three four five six", 20) == ["one\n\ntwo three four", "five six"]


def test_leaves_no_small_last_chunk() -> None:
    text = "word " * 200 + "end"  # 1,003 characters: 1,000 would leave three
    assert [len(each.content) for each in chunk(text, overlap_chars=0)] == [799, 203]


def test_overlap_repeats_whole_words() -> None:
    assert contents("a1 a2 a3 a4 a5 a6 a7 a8 a9", 12, 6) == ["a1 a2 a3 a4", "a3 a4 a5 a6", "a5 a6 a7 a8", "a7 a8 a9"]
    assert contents("a1 a2 a3 a4 a5 a6", 12, 4) == ["a1 a2 a3 a4", "a4 a5 a6"]
    assert contents("a1 a2 a3 a4 a5 a6", 12, 1) == ["a1 a2 a3 a4", "a5 a6"]


def test_long_word_replaces_overlap() -> None:
    assert contents("a1 a2 a3 a4 " + "x" * 12, 12, 6) == ["a1 a2 a3 a4", "x" * 12]


def test_only_word_longer_than_chunk_is_cut() -> None:
    assert contents("ab " + "x" * 25 + " cd", 10, 5) == ["ab", "x" * 10, "x" * 10, "xxxxx cd"]
    assert contents("ab " + "x" * 10 + " cd", 10, 5) == ["ab", "x" * 10, "cd"]


def test_cut_word_keeps_marks_and_joined_emoji_together() -> None:
    accented = "e\u0301" * 7  # e and a combining acute accent
    assert contents(accented, 5) == ["e\u0301" * 2, "e\u0301" * 2, "e\u0301" * 2, "e\u0301"]
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert contents(family * 2, 6) == [family, family]
    waving = "\U0001f44b\U0001f3fd"
    assert contents(waving * 2, 3) == [waving, waving]
    assert contents("e" + "\u0301" * 9, 5) == [
        "e" + "\u0301" * 4,
        "\u0301" * 5,
    ]  # one letter that is longer than a chunk


def test_sentences_without_spaces_end_at_their_punctuation() -> None:
    first, second, third = "\u4eca\u5929\u5f88\u597d\u3002", "\u4f60\u597d\u5417\uff1f\u300d", "\u518d\u89c1\uff01"
    assert contents(first + second + third, 12) == [first + second, third]
    assert contents(first + second + third, 12, 6) == [first + second, second + third]


def test_chunk_size_is_bounded_in_bytes() -> None:
    chinese = "\u4e2d" * 10  # 30 bytes
    assert contents(chinese, 10, max_bytes=30) == [chinese]
    assert contents(chinese, 10, max_bytes=29) == ["\u4e2d" * 9, "\u4e2d"]
    assert contents("ab \U0001f600\U0001f600", 10, max_bytes=9) == ["ab", "\U0001f600\U0001f600"]
    assert contents("\U0001f600\U0001f600", 10, max_bytes=4) == ["\U0001f600", "\U0001f600"]


def test_markdown_chunks_name_the_headings_above() -> None:
    body = HUNDRED * 3
    text = f"{body}\n# A\n{body}\n## B ##\n{body}\n### C\n{body}\n## `D`\n{body}\n# E\n{body}"
    found = chunk(text, max_chars=400)
    assert [each.headings for each in found] == [(), ("A",), ("A", "B"), ("A", "B", "C"), ("A", "D"), ("E",)]
    assert [each.content[:6] for each in found] == ["nine c", "# A\nni", "## B #", "### C\n", "## `D`", "# E\nni"]
    assert chunk(text, max_chars=400, markdown=False)[1].headings == ()


def test_skipped_heading_levels_are_not_filled_in() -> None:
    body = HUNDRED * 3
    found = chunk(f"### C\n{body}\n##\n{body}\n### D\n{body}\n# A\n{body}")
    assert [each.headings for each in found] == [("C",), (), ("D",), ("A",)]


def test_headings_in_fenced_code_are_ignored() -> None:
    body = HUNDRED * 3
    code = f"```sh\n# no heading\n{body}\n~~~\n# nor this\n``` still code\n# nor that\n````\n"
    found = chunk(f"# A\n{code}# B\n{body}\n~~~~\n# open to the end\n```\n~~~\n# really\n{body}")
    assert [each.headings for each in found] == [("A",), ("B",)]
    inline = chunk(f"# A\n{body}\n``` a ` b\n# B\n{body}")
    assert [each.headings for each in inline] == [("A",), ("B",)]


def test_small_sections_share_a_chunk_and_its_common_headings() -> None:
    text = f"# A\n## B\n{HUNDRED}\n## C\n{HUNDRED}\n## D\n{HUNDRED * 3}\n# E\n{HUNDRED}"
    found = chunk(text, max_chars=1000)
    assert [each.headings for each in found] == [("A",), ()]
    assert found[0].content == f"# A\n## B\n{HUNDRED}\n## C\n{HUNDRED}".rstrip()
    assert (
        found[1].content == f"## D\n{HUNDRED * 3}\n# E\n{HUNDRED}".rstrip()
    )  # the last section joins the previous one


def test_small_section_that_does_not_fit_stays_alone() -> None:
    found = contents(f"# A\n{HUNDRED}\n# B\n{HUNDRED * 9}", 1000)
    assert found == [f"# A\n{HUNDRED}".rstrip(), f"# B\n{HUNDRED * 9}".rstrip()]


def test_bare_heading_joins_next_section() -> None:
    found = chunk(f"# A\n\n## B\n\n{HUNDRED * 12}", overlap_chars=0)
    assert found[0].content.startswith("# A\n\n## B\n\nnine char nine")
    assert [each.headings for each in found] == [("A", "B"), ("A", "B")]


def test_bare_heading_at_end_joins_previous_section() -> None:
    found = contents(f"# A\n{HUNDRED * 9}{HUNDRED[:94]}\n# B", 1000)  # 998 characters, then a heading
    assert len(found) == 2
    assert found[1].endswith("nine char nine\n# B")
    assert contents("# A\n## B\n", 1000) == ["# A\n## B"]


def test_default_limits() -> None:
    found = chunk("word " * 1000)
    assert max(len(each.content) for each in found) <= 1000
    assert [earlier.end - later.start for earlier, later in pairwise(found)] == [99] * (len(found) - 1)


def test_strategy_names() -> None:
    assert MarkdownHeadings().name == "markdown-headings"
    assert SizeOverlap().name == "size-overlap"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_chars": 0, "overlap_chars": 0}, "max_chars must be at least 1, not 0"),
        ({"max_chars": 10, "overlap_chars": 6}, r"overlap_chars must be from 0 to half of max_chars \(5\), not 6"),
        ({"overlap_chars": -1}, r"overlap_chars must be from 0 to half of max_chars \(500\), not -1"),
        ({"max_bytes": 3}, r"max_bytes must be from 4 \(one character\) to 65,535, not 3"),
        ({"max_bytes": 65_536}, r"max_bytes must be from 4 \(one character\) to 65,535, not 65536"),
    ],
)
def test_contradictory_limits_are_refused(limits: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chunk("text", **limits)  # type: ignore[arg-type]


def test_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueError, match="lone surrogate at character 2"):
        chunk("ab\ud800")


@pytest.mark.parametrize(
    "unit",
    ["x", " ", "\n", "# \n", "#", "```\n", "[", "[a](", ".)", "\u0301", "\u3002", "\n \t", "a " + "b" * 999 + " "],
    ids=ascii,
)
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = "# " + unit * (400_000 // len(unit))  # quadratic time would exceed the test's timeout
    assert len(chunk(text, overlap_chars=500)) <= 2 * len(text) / 500


@pytest.mark.parametrize("kind", ["lines", "sentences", "words", "letters"])
def test_edit_changes_only_chunks_near_it(kind: str) -> None:
    text = long_text(kind)
    before = {each.content for each in SizeOverlap().chunk(text)}
    places = random.Random(1)
    changed = []
    for number in range(8):
        at = 0 if number == 0 else places.randrange(len(text))
        if kind == "lines":
            at = text.rfind("\n", 0, at) + 1
        added = "one more line, as long as the others, with a number: 1234567\n" if kind == "lines" else "\u4e2d\u6587"
        for edit in (text[:at] + added + text[at:], text[:at] + text[at + len(added) :]):
            changed.append(len({each.content for each in SizeOverlap().chunk(edit)} - before))
    assert statistics.mean(changed) <= 2
    assert max(changed) <= 5


MARKS = "[\u0300-\u036f\u200d\U0001f3fb-\U0001f3ff]*"
JOINED = re.compile(rf"\S{MARKS}(?:(?<=\u200d)\S{MARKS})*")
CJK_SENTENCE_END = re.compile("[\u3002\uff01\uff1f\uff1b]")


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, int, int, int, bool]:
    """A text, max_chars, overlap_chars, max_bytes, markdown."""
    max_chars = draw(st.integers(1, 150))
    overlap_chars = draw(st.integers(0, max_chars // 2))
    return draw(TEXT), max_chars, overlap_chars, draw(st.integers(4, 300)), draw(st.booleans())


@settings(deadline=None)  # a shared machine may stall
@given(cases())
def test_chunks_cover_every_text_in_order_within_limits(case: tuple[str, int, int, int, bool]) -> None:
    text, max_chars, overlap_chars, max_bytes, markdown = case
    found = chunk(text, max_chars=max_chars, overlap_chars=overlap_chars, max_bytes=max_bytes, markdown=markdown)
    covered: set[int] = set()
    for each in found:
        assert text[each.start : each.end] == each.content == each.content.strip()
        assert 1 <= len(each.content) <= max_chars
        assert len(each.content.encode()) <= max_bytes
        covered.update(range(each.start, each.end))
    assert all(at in covered for at, character in enumerate(text) if not character.isspace())
    for earlier, later in pairwise(found):
        assert earlier.start < later.start
        assert earlier.end < later.end
        assert earlier.end - later.start <= overlap_chars


@settings(deadline=None)  # a shared machine may stall
@given(cases())
def test_no_word_that_fits_is_cut(case: tuple[str, int, int, int, bool]) -> None:
    text, max_chars, overlap_chars, max_bytes, markdown = case
    found = chunk(text, max_chars=max_chars, overlap_chars=overlap_chars, max_bytes=max_bytes, markdown=markdown)
    for word in re.finditer(r"\S+", text):
        fits = len(word[0]) <= max_chars and len(word[0].encode()) <= max_bytes
        if fits and not CJK_SENTENCE_END.search(word[0]):
            for each in found:
                inside = each.start <= word.start() and word.end() <= each.end
                assert inside or each.end <= word.start() or word.end() <= each.start


@settings(deadline=None)  # a shared machine may stall
@given(cases())
def test_letters_with_marks_and_joined_emoji_stay_whole(
    case: tuple[str, int, int, int, bool],
) -> None:
    text, max_chars, overlap_chars, max_bytes, markdown = case
    found = chunk(text, max_chars=max_chars, overlap_chars=overlap_chars, max_bytes=max_bytes, markdown=markdown)
    for joined in JOINED.finditer(text):
        if len(joined[0]) <= max_chars and len(joined[0].encode()) <= max_bytes:
            for each in found:
                inside = each.start <= joined.start() and joined.end() <= each.end
                assert inside or each.end <= joined.start() or joined.end() <= each.start
