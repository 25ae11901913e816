"""Files become clean text with title, types, hash and size; an error says why a file cannot be read."""

import os
import sys
from pathlib import Path

import pytest

from producer.errors import ProducerError
from producer.processing.extract.extract import extract, is_supported
from producer.processing.extract.limits import DEFAULT_LIMITS, ExtractLimits
from producer.processing.extract.port import Extracted, ExtractError

pytestmark = pytest.mark.unit

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: /proc, or file names of any bytes")


DOUBT = "; no other encoding is certain: convert the file to UTF-8"
CHINESE = "人事部門的休假規定。每位員工每年有二十天的帶薪休假。請在休假前兩週向主管提出申請。並填寫系統中的表格。"
JAPANESE = "人事部の休暇規定。従業員は毎年二十日間の有給休暇を取得できます。休暇の二週間前までに申請してください。"
GERMAN = (
    "Für alle Angestellten gilt: zwanzig Urlaubstage im Jahr. Überstunden müssen genehmigt werden. Das Büro schließt."
)
RUSSIAN = "Сотрудники имеют право на двадцать дней оплачиваемого отпуска в год. Принтер стоит на втором этаже."
POLISH = (
    "Pracownicy mają prawo do dwudziestu dni urlopu. Drukarka znajduje się na drugim piętrze, żeby każdy mógł jej użyć."
)


def write(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


def test_plain_text_is_extracted(tmp_path: Path) -> None:
    assert extract(write(tmp_path, "note.txt", b"hello\n")) == Extracted(
        text="hello\n",
        source_type="text",
        title="note",
        content_type="text/plain",
        language=None,
        sha256="5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        size_bytes=6,
    )


def test_markdown_title_is_its_first_heading(tmp_path: Path) -> None:
    found = extract(
        write(tmp_path, "readme.MD", b"intro\n\n```\n# a comment\n```\n##\n## Read *me* first ##\n# Later\n")
    )
    assert found.title == "Read *me* first"
    assert found.content_type == "text/markdown"


@pytest.mark.parametrize(
    ("heading", "title"),
    [
        ("# [Guide](https://example.org/a) to `rag-outbox`", "Guide to rag-outbox"),
        ("# [![logo](a.png)](https://example.org) **Outbox**", "logo Outbox"),
        ("#\tC# and F#", "C# and F#"),
        ("   ###### deep   ", "deep"),
        ("# a_b __init__", "a_b __init__"),
        ("# one\ttwo   three", "one two three"),
        ("#hashtag", "file"),
        ("    # indented code", "file"),
        ("####### seven", "file"),
        ("# #", "file"),
        ("plain", "file"),
    ],
)
def test_headings_become_plain_titles(tmp_path: Path, heading: str, title: str) -> None:
    assert extract(write(tmp_path, "file.md", heading.encode())).title == title


def test_long_title_is_cut_between_words(tmp_path: Path) -> None:
    words = extract(write(tmp_path, "a.md", b"# " + b"abcd " * 200)).title
    assert words == "abcd " * 101 + "abcd"  # 509 characters; the next word would make 514
    assert extract(write(tmp_path, "b.md", b"# " + b"x" * 600)).title == "x" * 512
    assert extract(write(tmp_path, "c.md", b"# " + b"x" * 512 + b" y")).title == "x" * 512


def test_plain_text_title_is_the_file_name(tmp_path: Path) -> None:
    assert extract(write(tmp_path, "shopping list.text", b"# milk\n")).title == "shopping list"
    assert extract(write(tmp_path, "index.rst", b"# milk\n")).content_type == "text/x-rst"


def test_byte_order_mark_is_removed_but_hashed(tmp_path: Path) -> None:
    found = extract(write(tmp_path, "a.md", b"\xef\xbb\xbf# Title\n"))
    assert (found.text, found.title, found.size_bytes) == ("# Title\n", "Title", 11)
    assert found.sha256 != extract(write(tmp_path, "b.md", b"# Title\n")).sha256


def test_line_breaks_become_newlines(tmp_path: Path) -> None:
    raw = "a\r\nb\rc\n\rd\fe\vf\u0085g\u2028h\u2029i\x1cj".encode()
    assert extract(write(tmp_path, "a.txt", raw)).text == "a\nb\nc\n\nd\ne\nf\ng\nh\ni\nj"


def test_control_characters_are_removed(tmp_path: Path) -> None:
    raw = "tab\tstays \x1b[31mred\x07\x7f\u0080\u009f caf\u00e9 \u4e2d \U0001f600".encode()
    assert extract(write(tmp_path, "a.txt", raw)).text == "tab\tstays [31mred caf\u00e9 \u4e2d \U0001f600"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_with_byte_order_mark_is_decoded(tmp_path: Path, encoding: str) -> None:
    marked = CHINESE if encoding in ("utf-8-sig", "utf-16", "utf-32") else f"\ufeff{CHINESE}"
    assert extract(write(tmp_path, "a.txt", marked.encode(encoding))).text == CHINESE


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "big5"),
        (CHINESE, "gb18030"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (GERMAN, "latin-1"),
        (GERMAN, "cp1252"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
    ],
)
def test_certain_encoding_is_decoded(tmp_path: Path, text: str, encoding: str) -> None:
    assert extract(write(tmp_path, "a.txt", text.encode(encoding))).text == text
    long = f"{text}\n" * 6_000  # longer than the sample
    assert extract(write(tmp_path, "b.txt", long.encode(encoding))).text == long


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "cp866"),
        (POLISH, "cp852"),
        (POLISH, "mac_latin2"),
        (GERMAN, "cp437"),
        ("Caf\u00e9 Zo\u00eb", "cp1252"),
    ],
)
def test_uncertain_encoding_is_refused(tmp_path: Path, text: str, encoding: str) -> None:
    with pytest.raises(ExtractError, match="no other encoding is certain: convert the file to UTF-8"):
        extract(write(tmp_path, "a.txt", text.encode(encoding)))


def test_second_encoding_after_the_sample_is_refused(tmp_path: Path) -> None:
    raw = f"{CHINESE}\n".encode("big5") * 4_000 + b"\xff\xff"
    with pytest.raises(ExtractError, match="no other encoding is certain"):
        extract(write(tmp_path, "a.txt", raw))


@pytest.mark.parametrize(
    ("raw", "message", "offset"),
    [
        (b"", "no text in it: the file is empty or blank", None),
        (b" \n\t\r\n\xc2\xa0", "no text in it: the file is empty or blank", None),
        (b"\x07\x1b", "no text in it: the file is empty or blank", None),
        (b"\xef\xbb\xbf", "no text in it: the file is empty or blank", None),
        (b"caf\xe9 au lait", f"not UTF-8: byte 0xe9 at offset 3 (invalid continuation byte){DOUBT}", 3),
        (b"\xef\xbb\xbfab\xff", "not UTF-8: byte 0xff at offset 5 (invalid start byte)", 5),
        (b"ends in \xe4\xb8", f"not UTF-8: byte 0xe4 at offset 8 (unexpected end of data){DOUBT}", 8),
        (b"\xed\xa0\x80", f"not UTF-8: byte 0xed at offset 0 (invalid continuation byte){DOUBT}", 0),
        (b"damaged: \xe4\xb8\xad\xe6\x96", "not UTF-8: byte 0xe6 at offset 12 (unexpected end of data)", 12),
        (b"\xff\xfea\x00b", "not UTF-16: byte 0x62 at offset 4 (truncated data)", 4),
        (b"\xff\xfea\x00\x00\x00", "NUL character at 1: this looks like a binary file", 0),
        (b"ab\x00cd", "NUL byte at offset 2: this looks like a binary file", 2),
        (b"h\x00i\x00", "NUL byte at offset 1: this looks like a binary file", 1),
        (b"\x00", "NUL byte at offset 0: this looks like a binary file", 0),
    ],
)
def test_files_without_text_are_refused(tmp_path: Path, raw: bytes, message: str, offset: int | None) -> None:
    path = write(tmp_path, "a.txt", raw)
    with pytest.raises(ExtractError) as caught:
        extract(path)
    assert str(caught.value) == f"{path}: {message}"
    assert (caught.value.path, caught.value.offset) == (path, offset)
    assert isinstance(caught.value, ProducerError)


def test_file_above_size_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(DEFAULT_LIMITS.file_bytes + 1)  # sparse
    with pytest.raises(ExtractError, match=r"a\.txt: too large: 67,108,865 bytes, the limit is 67,108,864$"):
        extract(path)


def test_size_limit_is_inclusive(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"12345")
    assert extract(path, limits=ExtractLimits(file_bytes=5)).text == "12345"
    with pytest.raises(ExtractError, match=r"too large: 5 bytes, the limit is 4$"):
        extract(path, limits=ExtractLimits(file_bytes=4))


@linux
def test_file_that_grows_during_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.symlink_to("/proc/cpuinfo")  # reports a size of 0 bytes, but has more
    with pytest.raises(ExtractError, match="grew past the limit of 10 bytes"):
        extract(path, limits=ExtractLimits(file_bytes=10))


@linux
def test_disk_error_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.symlink_to("/proc/self/mem")  # its first page cannot be read
    with pytest.raises(ExtractError, match=r"a\.txt: cannot be read: Input/output error"):
        extract(path)


def test_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match=r"gone\.md: no such file"):
        extract(tmp_path / "gone.md")


def test_folder_and_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(ExtractError, match=r"folder\.md: cannot be read: Is a directory"):
        extract(tmp_path / "folder.md")
    os.mkfifo(tmp_path / "pipe.md")  # opening it must not wait for a writer
    with pytest.raises(ExtractError, match=r"pipe\.md: not a regular file"):
        extract(tmp_path / "pipe.md")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; run the tests as another user")
def test_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"secret")
    path.chmod(0)
    with pytest.raises(ExtractError, match="cannot be read: Permission denied"):
        extract(path)


def test_file_name_with_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="cannot be read: embedded null byte"):
        extract(tmp_path / "a\0.txt")


@linux
def test_file_name_of_any_bytes_gives_printable_title_and_message(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9\n\x07.txt")
    path.write_bytes(b"x")
    assert extract(path).title == "caf\\udce9"
    path.write_bytes(b"")
    with pytest.raises(ExtractError) as caught:
        extract(path)
    assert str(caught.value).encode().endswith(b"caf\\udce9\n\x07.txt: no text in it: the file is empty or blank")
    path = tmp_path / "\x07.txt"
    path.write_bytes(b"x")
    assert extract(path).title == "untitled"


@pytest.mark.parametrize("name", ["a.svg", "a", ".md", "md", "a.md.gz"])
def test_unsupported_types_are_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, b"text")
    assert not is_supported(path)
    with pytest.raises(ExtractError, match=r"unsupported file type '.*'; supported: \.bmp \.csv .* \.xlsx$"):
        extract(path)


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.md", "a.b.Markdown", "a.rst", "a.PDF", "a.docx", "a.html"])
def test_supported_types_are_known_by_suffix(name: str) -> None:
    assert is_supported(Path(name))
