"""Decodes the bytes of a text file whose encoding nothing names.

A wrong guess would fill the stores with nonsense that nobody notices, so a doubtful file is refused.
"""

import codecs
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
