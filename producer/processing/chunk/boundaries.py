"""Finds the best place to end a chunk: after a paragraph, else a line, else a sentence, else a word."""

import re
import unicodedata

_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")
# Chinese and Japanese put no space after a sentence, so there the punctuation alone ends it: ideographic full stop,
# full-width exclamation mark, question mark and semicolon, then closing quotes and brackets.
_CJK_END = r"[\u3002\uff01\uff1f\uff1b][\u201d\u2019\uff09\u300d\u300f\u3011\"']*"
_SENTENCE_END = re.compile(rf"[.!?\u2026][\"'\u201d\u2019)\]]*(?=\s)|{_CJK_END}")
_BEFORE_WORD = re.compile(rf"(?:\s|{_CJK_END})(?=\S)")
_WORD = re.compile(r"\S")
_JOINER = "\u200d"  # zero width joiner, as between the people of a family emoji


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span (start, end) without white space at its ends, None if nothing is left."""
    content = text[start:end].rstrip()
    if not content:
        return None
    end = start + len(content)
    return end - len(content.lstrip()), end


def last_between(text: str, low: int, high: int) -> int | None:
    """The last cut of the best kind in `text[low:high + 1]`, None if there is none."""
    if low > high:
        return None
    paragraphs = [match.start() for match in _PARAGRAPH_END.finditer(text, low, high + 2)]
    if paragraphs:
        return paragraphs[-1]
    line = text.rfind("\n", low, high + 1)
    if line >= 0:
        return line
    sentences = [match.end() for match in _SENTENCE_END.finditer(text, low, high + 1) if match.end() <= high]
    for end in reversed(sentences):
        if not is_joined(text, end):
            return end
    return last_word_end(text, low, high)


def last_word_end(text: str, low: int, high: int) -> int | None:
    """The last white space in `text[low:high + 1]`, None if there is none."""
    return next((at for at in range(min(high, len(text) - 1), low - 1, -1) if text[at].isspace()), None)


def inside_word(text: str, low: int, high: int) -> int:
    """Where to cut a word that is too long: the last place in `text[low + 1:high + 1]` between two whole letters."""
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
