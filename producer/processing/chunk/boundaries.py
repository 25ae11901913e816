"""Finds the best place to end a chunk: after a paragraph, else a line, else a sentence, else a word.

Of several places of the best kind, the text before each of them decides, not its distance from the start: so an edit
moves only the cuts near it (content-defined chunking).
"""

import re
import unicodedata
from zlib import crc32

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
# Chinese and Japanese put no space after a sentence, so there the punctuation alone ends it: ideographic full stop,
# full-width exclamation mark, question mark and semicolon, then closing quotes and brackets.
_CJK_END = r"[\u3002\uff01\uff1f\uff1b][\u201d\u2019\uff09\u300d\u300f\u3011\"']*"
_SENTENCE_END = re.compile(rf"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s)|{_CJK_END}")
_BEFORE_WORD = re.compile(rf"(?:\s|{_CJK_END})(?=\S)")
_WORD = re.compile(r"\S")
_LINE_END = re.compile(r"\n")
_SPACE = re.compile(r"\s")
LINE_CONTEXT, _WORD_CONTEXT, _LETTER_CONTEXT = 128, 32, 8  # characters before a cut that decide on it
_NEAR = 32  # characters: so near to each other, cuts after an edit meet anyway, and the last one makes larger chunks
_JOINER = "\u200d"  # zero width joiner, as between the people of a family emoji


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span (start, end) without white space at its ends, None if nothing is left."""
    content = text[start:end].rstrip()
    if not content:
        return None
    end = start + len(content)
    return end - len(content.lstrip()), end


def best_between(text: str, low: int, high: int) -> int | None:
    """The best cut in `text[low:high + 1]`, None if there is none."""
    if low > high:
        return None
    paragraphs = [match.start() for match in _PARAGRAPH_END.finditer(text, low, high + 2)]
    if paragraphs:
        return choose(text, paragraphs, LINE_CONTEXT)
    lines = [match.start() for match in _LINE_END.finditer(text, low, high + 1)]
    if lines:
        return choose(text, lines, LINE_CONTEXT)
    ends = (match.end() for match in _SENTENCE_END.finditer(text, low, high + 1))
    sentences = [end for end in ends if end <= high and not is_joined(text, end)]
    if sentences:
        return choose(text, sentences, LINE_CONTEXT)
    words = [match.start() for match in _SPACE.finditer(text, low, high + 1)]
    return choose(text, words, _WORD_CONTEXT) if words else None


def choose(text: str, cuts: list[int], context: int) -> int:
    """The cut whose `context` characters before it have the lowest checksum; of equal or very near ones, the last."""
    if cuts[-1] - cuts[0] < _NEAR:
        return cuts[-1]
    return min(reversed(cuts), key=lambda cut: crc32(text[max(cut - context, 0) : cut].encode()))


def last_word_end(text: str, low: int, high: int) -> int | None:
    """The last white space in `text[low:high + 1]`, None if there is none."""
    return next((at for at in range(min(high, len(text) - 1), low - 1, -1) if text[at].isspace()), None)


def inside_word(text: str, low: int, high: int) -> int:
    """Where to cut a word that is too long: a place in the second half of `text[low + 1:high + 1]` between two letters.

    If letters with many marks leave none there, the last one of the whole.
    """
    middle = max((low + high) // 2, low + 1)
    if cuts := [at for at in range(middle, high + 1) if not is_joined(text, at)]:
        return choose(text, cuts, _LETTER_CONTEXT)
    return next((at for at in range(high, low, -1) if not is_joined(text, at)), high)


def first_word_start(text: str, low: int, high: int) -> int | None:
    """The first place in `text[low:high]` where a word or sentence starts, or None; `low` is above 0."""
    starts = (match.end() for match in _BEFORE_WORD.finditer(text, low - 1, high))
    return next((start for start in starts if not is_joined(text, start)), None)


def skip_space(text: str, at: int) -> int:
    """The place of the first character from `at` on that is not white space; there must be one."""
    match = _WORD.search(text, at)
    assert match is not None
    return match.start()


def is_joined(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the previous one: a combining mark, or part of a joined emoji."""
    character = text[at]
    return (
        unicodedata.category(character).startswith("M")
        or character == _JOINER
        or text[at - 1] == _JOINER
        or "\U0001f3fb" <= character <= "\U0001f3ff"  # skin tones
    )
