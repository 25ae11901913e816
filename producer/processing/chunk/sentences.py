"""Finds where sentences end, in Latin, Chinese, Japanese and other scripts.

A full stop after an abbreviation, an initial or the number of a list item does not end a sentence. Neither does a line
break inside a paragraph; headings, list items and rows of tables are sentences of their own.
"""

import re
from collections.abc import Iterator

from producer.processing.chunk import boundaries

# A blank line; a line break around a heading, or before a list item, a row of a table, a quotation or a fence.
_BLOCK_END = (
    r"(?P<paragraph>\n[ \t]*(?=\n))"
    r"|(?P<line>\n(?=[ \t]*(?:[-*+\u2022][ \t]|\d{1,3}[.)][ \t]|\#{1,6}[ \t]|\||>|`{3}|~{3})))"
    r"|(?P<heading>^[ \t]{0,3}\#{1,6}[ \t][^\n]*(?=\n))"
)
# Full stops of the Latin, Devanagari, Arabic, Armenian and Ethiopic scripts; then closing quotes and brackets.
_STOPS = r".!?\u2026\u0964\u0965\u061f\u06d4\u0589\u1362"
_STOP = rf"(?<![{_STOPS}])(?P<stop>[{_STOPS}]++)[\"'\u201d\u2019\u00bb)\]]*+(?=\s)"
_CJK_STOP = r"(?P<cjk>[\u3002\uff01\uff1f\uff1b]+[\u201d\u2019\uff09\u300d\u300f\u3011\"']*)"
_END = re.compile(f"{_BLOCK_END}|{_STOP}|{_CJK_STOP}", re.MULTILINE)
_WORD = re.compile(r"\S")
_LAST_WORD = re.compile(r"[^\s(\[\"'\u201c\u2018]+$")
_NEXT = re.compile(r"\s*[\"'\u201c\u2018(\[]*(\S)")
_WORD_CHARACTERS = 24  # that an abbreviation may have
_BEFORE_NUMBER = re.compile(r"\n[ \t]*\Z|\A[ \t]*\Z")  # the place of the number of a list item
_LETTERS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # an initial, or several: J, z.B, U.S
_ABBREVIATIONS = (
    "abb abs adj al anm approx apr assn aug ave bd bldg blvd bsp bzgl bzw ca capt cf ch co col comp corp cpt ct dec "
    "dept dgl dipl dist div doz dr ed edn eds eg eq eqs esp est evtl excl exkl feb fig figs fn fri gen ggf "
    "gov hon hr hrsg ie inc incl ing inkl insb inst jan jr jul jun kap lt ltd maj mar messrs mill mio misc mr "
    "mrd mrs ms mt mwst nos nov nr oct op orig pl pp prof pt pvt ref refs rev rd resp sec sect sen sep sept "
    "sgt sog sp sr st std str suppl tab tel thu tue univ usf usw var vgl vol vols vs zb ziff zzgl"
)
_IS_ABBREVIATION = frozenset(_ABBREVIATIONS.split()).__contains__


def find_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Yield, in order, each place in `text[start:end]` after a sentence and before the white space that follows it."""
    word = _WORD.search(text, start, end)
    for match in _END.finditer(text, start, end):
        if match["stop"] is not None and not _is_end(text, start, match):
            continue
        at = match.start() if match["paragraph"] is not None or match["line"] is not None else match.end()
        if word is not None and word.start() < at < end and not boundaries.is_joined(text, at):
            yield at
            word = _WORD.search(text, at, end)


def _is_end(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether a stop ends a sentence; after an abbreviation, it does only at the end of its paragraph."""
    if match["stop"] != ".":
        return not (match["stop"] in {"...", "\u2026"} and _continues(text, match.end()))
    if text[match.end() : match.end() + 2] == "\n\n":
        return True
    stop = match.start("stop")
    word = _LAST_WORD.search(text, max(start, stop - _WORD_CHARACTERS), stop)
    if word is None:
        return True
    before = word[0]
    if before.isdigit() and _BEFORE_NUMBER.search(text, max(start, word.start() - 8), word.start()):
        return False  # of a list item
    if _IS_ABBREVIATION(before.lower().replace(".", "")) or _LETTERS.fullmatch(before):
        return False
    return not _continues(text, match.end())


def _continues(text: str, at: int) -> bool:
    """Whether a small letter follows: the sentence goes on."""
    follows = _NEXT.match(text, at)
    return follows is not None and follows[1].islower()
