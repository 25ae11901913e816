"""Decodes the bytes of a text file: in the encoding that the file or its server names, or in one that is certain.

A wrong guess would fill the stores with nonsense that nobody notices, so a doubtful file is refused.
"""

import codecs
import re
from typing import Any

from charset_normalizer import from_bytes

_SAMPLE_BYTES = 256 * 1024  # from them the encoding is guessed; the whole file is decoded with it
_ASCII = bytes(range(128))
_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_GUESSED = [  # of encodings that differ in few characters, the larger one; Windows' rather than ISO's
    *("gb18030", "big5", "cp932", "euc_jp", "cp949"),
    *("cp1252", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp874"),
]
_PROBES: Any = {"cp_isolation": _GUESSED, "steps": 10, "chunk_size": 1024}  # more than the default: a steady result
_MOST_CHAOS = 0.1  # of charset-normalizer: the share of characters that do not fit each other
_LEAST_COHERENCE = 0.1  # of charset-normalizer: how far the frequent characters are those of a language
_LEAST_LEAD = 0.1  # of coherence, over the second best
_DECLARED_BYTES = 4_096  # a page declares its encoding in its first bytes
_CHARSET = re.compile(rb"<meta[^>]{0,200}charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]{0,100}encoding\s*=\s*[\"']([\w.:-]{2,40})[\"']", re.IGNORECASE)
_READ_AS = {  # as browsers do
    "iso8859-1": "cp1252",
    "ascii": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
_OF_TEXTS = (  # how Python's names of encodings begin; others, as idna, are of no text, and some cost much time
    *("utf-8", "utf-16", "utf-32", "ascii", "iso8859", "iso2022", "cp", "mac-", "koi8", "tis-620"),
    *("gb", "big5", "hz", "euc_", "shift_jis", "johab"),
)
_WIDE = ("utf-16", "utf-32")


class Undecodable(ValueError):
    """Raised when the bytes are no text, or their encoding is in doubt. `offset` is that of the first wrong byte."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.offset = offset


def decode(raw: bytes) -> str:
    """The text of `raw`, without a byte order mark: UTF-8, UTF-16 or UTF-32 with its mark, or what it surely is.

    Raises Undecodable.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            return _decode(raw, encoding)
    nul = raw.find(b"\0")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if nul < 0 and not _is_damaged_utf8(raw) and (guessed := _guess(raw)) is not None:
            return guessed
        doubt = "" if _is_damaged_utf8(raw) else "; no other encoding is certain: convert the file to UTF-8"
        raise Undecodable(f"{_describe(error, 'UTF-8')}{doubt}", error.start) from error
    if nul >= 0:
        raise Undecodable(f"NUL byte at offset {nul}: this looks like a binary file", nul)
    return text


def decode_as(raw: bytes, name: str) -> str | None:
    """The text of `raw` in a named encoding; None if that is unknown, or the bytes are not in it."""
    encoding = _look_up(name)
    if encoding is None:
        return None
    try:
        return raw.decode(encoding)
    except UnicodeError:
        return None


def find_declared(raw: bytes) -> str | None:
    """The encoding that a web page names itself; None if a byte order mark says more."""
    if _has_mark(raw):
        return None
    start = raw[:_DECLARED_BYTES]
    found = _XML_ENCODING.search(start) or _CHARSET.search(start)
    name = found[1].decode("ascii", "replace") if found else None
    if name is None or (_look_up(name) or "").startswith(_WIDE):  # it was read as ASCII, so it is none of them
        return None
    return name


def mark_as_utf8(raw: bytes, charset: str) -> bytes:
    """A text whose server names its encoding, as UTF-8 with a byte order mark, which wins over all that it says itself.

    Unchanged if it says the same itself, or if the server is wrong: the bytes are not in that encoding, or they are
    UTF-8 and the server names Latin-1, its default for every file.
    """
    encoding, declared = _look_up(charset), find_declared(raw)
    if encoding is None or _has_mark(raw) or _look_up(declared or "utf-8") == encoding:
        return raw
    text = decode_as(raw, charset)
    is_default = encoding == "cp1252" and decode_as(raw, "utf-8") is not None
    if text is None or "\0" in text or is_default:
        return raw
    return codecs.BOM_UTF8 + text.encode()


def _look_up(name: str) -> str | None:
    """Python's name of an encoding of texts, as browsers read it; None if it is unknown."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):  # ValueError: a NUL in the name
        return None
    return _READ_AS.get(found, found) if found.startswith(_OF_TEXTS) else None


def _has_mark(raw: bytes) -> bool:
    return raw.startswith((codecs.BOM_UTF8, *(mark for mark, _ in _BYTE_ORDER_MARKS)))


def _decode(raw: bytes, encoding: str) -> str:
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise Undecodable(_describe(error, encoding.upper()), error.start) from error
    if "\0" in text:
        raise Undecodable(f"NUL character at {text.index(chr(0))}: this looks like a binary file", 0)
    return text


def _is_damaged_utf8(raw: bytes) -> bool:
    """Whether most of the bytes that are not ASCII are valid UTF-8: then the others are damage."""
    valid = raw.decode("utf-8", "ignore").encode()
    return 2 * len(valid.translate(None, _ASCII)) > len(raw.translate(None, _ASCII))


def _guess(raw: bytes) -> str | None:
    """The text in the one encoding that is certain, or None."""
    sample = raw if len(raw) <= _SAMPLE_BYTES else raw[: raw.rfind(b"\n", 0, _SAMPLE_BYTES) + 1 or None]
    found = [match for match in from_bytes(sample, **_PROBES) if match.chaos <= _MOST_CHAOS]
    if not found or found[0].coherence < _LEAST_COHERENCE:
        return None
    best, *others = found
    if any(other.coherence > best.coherence - _LEAST_LEAD and str(other) != str(best) for other in others):
        return None
    try:  # encodings that give the same text of the sample may differ in the rest
        texts = {raw.decode(encoding) for encoding in best.could_be_from_charset}
    except UnicodeDecodeError:
        return None
    return texts.pop() if len(texts) == 1 else None


def _describe(error: UnicodeDecodeError, encoding: str) -> str:
    return f"not {encoding}: byte 0x{error.object[error.start]:02x} at offset {error.start} ({error.reason})"
