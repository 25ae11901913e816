"""A server's word on the encoding of a page: it wins over the page, unless it is wrong."""

import codecs

import pytest

from producer.processing.extract.encodings import decode_as, find_declared, mark_as_utf8

pytestmark = pytest.mark.unit

RUSSIAN = "Принтер"


@pytest.mark.parametrize(
    "name", ["idna", "punycode", "unicode_escape", "utf-7", "base64", "rot13", "x\0", "", "é", "no"]
)
def test_name_that_is_no_encoding_of_texts_is_unknown(name: str) -> None:
    assert decode_as(b"abc", name) is None


@pytest.mark.parametrize(
    ("name", "raw", "text"),
    [
        ("ISO-8859-1", b"\x93a\x94", "“a”"),  # Windows' quotation marks, as in browsers
        ("us-ascii", b"\xe9", "é"),
        ("Shift_JIS", b"\x87\x40", "①"),  # a character that Windows added
        ("EUC-KR", b"\x8c\x63", "똠"),
        ("gb2312", b"\x81\x30\x81\x30", "\x80"),
        ("utf-16", b"\xff\xfea\0", "a"),
        ("utf-8", b"\xff", None),
    ],
)
def test_encoding_is_read_as_browsers_do(name: str, raw: bytes, text: str | None) -> None:
    assert decode_as(raw, name) == text


@pytest.mark.parametrize(
    ("raw", "declared"),
    [
        (b'<meta charset="koi8-r">', "koi8-r"),
        (b'<?xml version="1.0" encoding="big5"?>', "big5"),
        (b'<meta charset="utf-16">', None),  # then this line would not be readable
        (b"<p>charset=koi8-r</p>", None),
        (codecs.BOM_UTF8 + b'<meta charset="koi8-r">', None),
    ],
)
def test_encoding_that_a_page_declares(raw: bytes, declared: str | None) -> None:
    assert find_declared(raw) == declared


def test_text_in_another_encoding_is_marked() -> None:
    marked = codecs.BOM_UTF8 + RUSSIAN.encode()
    meta = '<meta charset="koi8-r">'
    assert mark_as_utf8(RUSSIAN.encode("cp1251"), "windows-1251") == marked
    assert mark_as_utf8((meta + RUSSIAN).encode(), "utf-8") == codecs.BOM_UTF8 + (meta + RUSSIAN).encode()


@pytest.mark.parametrize(
    ("raw", "charset"),
    [
        (RUSSIAN.encode(), "utf-8"),
        (RUSSIAN.encode(), "iso-8859-1"),
        (RUSSIAN.encode("cp1251"), "utf-8"),
        (RUSSIAN.encode("cp1251"), "nonsense"),
        (RUSSIAN.encode("utf-16"), "utf-8"),
        (codecs.BOM_UTF8 + RUSSIAN.encode(), "windows-1251"),
        (f'<meta charset="windows-1251">{RUSSIAN}'.encode("cp1251"), "CP1251"),
        (b"a\0b", "windows-1251"),
    ],
)
def test_text_that_needs_no_mark_stays_as_it_is(raw: bytes, charset: str) -> None:
    assert mark_as_utf8(raw, charset) == raw
