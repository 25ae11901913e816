"""A damaged or hostile file is one clear error; it costs bounded memory and time, and the next file is read."""

import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import util
from pathlib import Path

import openpyxl
import pytest
from PIL import Image as Pillow

from producer.processing.extract import formats, ocr
from producer.processing.extract.extract import FileExtractor, extract
from producer.processing.extract.limits import DEFAULT_LIMITS, ExtractLimits, MiB
from producer.processing.extract.port import ExtractError, MissingExtra, Unreadable
from producer.processing.extract.reading import read_format
from tests.support.sample_files import DAYS, LEAVE, picture_of, png, write_excel, write_pdf, write_word, zip_bomb
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit

needs_ocr = pytest.mark.skipif(not ocr.is_installed(), reason="needs the extra ocr")
LAUGHS = b'<!DOCTYPE x [<!ENTITY a0 "laugh">%b]>' % b"".join(
    b'<!ENTITY a%d "%b">' % (level, b"&a%d;" % (level - 1) * 10) for level in range(1, 10)
)


@pytest.fixture(scope="module")
def extractor() -> Iterator[FileExtractor]:
    with FileExtractor() as extractor:
        yield extractor


def reason(extractor: FileExtractor, path: Path) -> str:
    with pytest.raises(ExtractError) as caught:
        extractor.extract(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def rewritten(source: Path, target: Path, member: str, change: Callable[[bytes], bytes]) -> Path:
    """A copy of an archive with one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change(old.read(name)) if name == member else old.read(name))
    return target


def test_damaged_files_are_refused_with_a_reason(extractor: FileExtractor, tmp_path: Path) -> None:
    pdf, word = write_pdf(tmp_path / "a.pdf"), write_word(tmp_path / "a.docx")
    cases = {
        "half.pdf": (pdf.read_bytes()[:500], "damaged: "),
        "half.docx": (word.read_bytes()[:9_000], "damaged: "),
        "text.pdf": (b"hello", "its content is not that of a PDF"),
        "empty.xlsx": (b"", "no text in it: the file is empty"),
        "zip.docx": (b"PK\x03\x04", "its content is not that of a Word file"),
        "old.docx": (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"),
            "an old Word file (.doc)",
        ),
        "locked.xlsx": (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "EncryptedPackage".encode("utf-16-le"),
            "it is encrypted",
        ),
        "old.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "Workbook".encode("utf-16-le"), "damaged: "),
        "blank.html": (b"<html><body><script>x</script></body></html>", "no text in it"),
        "nul.csv": (b"a,b\n\0", "NUL byte at offset 4"),
        "blank.csv": (b",,\n,,\n", "no text in it"),
    }
    for name, (raw, expected) in cases.items():
        (tmp_path / name).write_bytes(raw)
        assert reason(extractor, tmp_path / name).startswith(expected), name
    assert extractor.extract(pdf).text == LEAVE


def test_files_with_random_damage_end_as_text_or_as_an_error(extractor: FileExtractor, tmp_path: Path) -> None:
    numbers = random.Random(5)
    table = write_excel(tmp_path / "a.xlsx", {"a": DAYS})
    for source in (write_pdf(tmp_path / "a.pdf", [LEAVE] * 2, table=DAYS), write_word(tmp_path / "a.docx"), table):
        raw = bytearray(source.read_bytes())
        for number in range(10):
            damaged = bytearray(raw)
            for _ in range(numbers.randint(1, 40)):
                damaged[numbers.randrange(len(raw))] = numbers.randrange(256)
            path = tmp_path / f"{number}-{source.name}"
            path.write_bytes(damaged)
            with suppress(ExtractError):
                assert extractor.extract(path).text
        assert extractor.extract(source).text


def test_encrypted_pdf_is_refused(extractor: FileExtractor, tmp_path: Path) -> None:
    assert reason(extractor, write_pdf(tmp_path / "a.pdf", password="secret")) == "it is encrypted: remove its password"


@pytest.mark.parametrize(("name", "member"), [("a.docx", "word/document.xml"), ("a.xlsx", "xl/workbook.xml")])
def test_zip_bomb_is_refused(extractor: FileExtractor, tmp_path: Path, name: str, member: str) -> None:
    found = reason(extractor, zip_bomb(tmp_path / name, member, 100 * MiB))
    assert found.startswith("it unpacks to 104,857,600 bytes or more, the limit for its size is ")


def test_entities_that_grow_or_name_a_file_are_not_followed(extractor: FileExtractor, tmp_path: Path) -> None:
    good = write_word(tmp_path / "a.docx")
    (tmp_path / "secret").write_text("the secret")

    def insert(doctype: bytes, entity: bytes) -> Callable[[bytes], bytes]:
        return lambda xml: doctype + xml.partition(b"?>")[2].replace(b"Every", entity + b" Every", 1)

    laughs = rewritten(good, tmp_path / "b.docx", "word/document.xml", insert(LAUGHS, b"&a9;"))
    assert reason(extractor, laughs).startswith("damaged: ExpatError: ")
    doctype = f'<!DOCTYPE x [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]>'.encode()
    outside = rewritten(good, tmp_path / "c.docx", "word/document.xml", insert(doctype, b"&x;"))
    assert "the secret" not in extractor.extract(outside).text


@needs_ocr
def test_image_of_too_many_pixels_is_refused(extractor: FileExtractor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(Pillow.new("1", (10_000, 10_000))))
    found = reason(extractor, tmp_path / "a.png")
    assert found == "an image of 10,000 × 10,000 pixels, the limit is 64,000,000 pixels"
    (tmp_path / "b.png").write_bytes(png(picture_of(LEAVE))[:2_000])
    assert reason(extractor, tmp_path / "b.png").startswith("damaged: ")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"pages": 2}, "3 pages, the limit is 2"),
        ({"text_chars": 100}, "too much text: more than the limit of 100 characters"),
        ({"cells": 7}, "too many table cells: 8, the limit is 7"),
        ({"tables": 0}, "too many tables: 1, the limit is 0"),
    ],
    ids=str,
)
def test_each_limit_has_its_error(tmp_path: Path, limits: dict[str, int], expected: str) -> None:
    raw = write_pdf(tmp_path / "a.pdf", [LEAVE] * 3, table=DAYS).read_bytes()
    with pytest.raises(Unreadable) as caught:
        read_format(raw, formats.PDF, replace(DEFAULT_LIMITS, **limits), "")
    assert str(caught.value) == expected


def test_result_is_bounded(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf")
    with FileExtractor(ExtractLimits(result_bytes=200)) as extractor:
        assert reason(extractor, path).startswith("too much in it: ")
    with FileExtractor(ExtractLimits(file_bytes=1_000)) as extractor:
        assert reason(extractor, path).startswith("too large: ")


def test_images_beyond_a_limit_are_named_as_left_out(tmp_path: Path) -> None:
    raw = write_pdf(tmp_path / "a.pdf", picture=picture_of("A chart")).read_bytes()
    found = read_format(raw, formats.PDF, ExtractLimits(image_bytes=10), "")
    assert (found.images, found.warnings) == ((), ("1 image damaged or beyond a limit",))
    assert read_format(raw, formats.PDF, ExtractLimits(images=0), "").warnings == ()


def test_spans_of_a_table_are_bounded(extractor: FileExtractor, tmp_path: Path) -> None:
    cells = '<td colspan="999999" rowspan="99999">x</td>' * 30
    rows = f"<tr>{cells}</tr>" + "<tr><td>y</td><td>z</td></tr>" * 50
    (tmp_path / "a.html").write_text(f"<html><body><main><p>{LEAVE}</p><table>{rows}</table></main></body></html>")
    assert reason(extractor, tmp_path / "a.html").startswith("too many table cells: ")


def test_file_that_needs_too_much_memory_ends_only_the_child(extractor: FileExtractor, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.worksheets[0]["A1"], book.worksheets[0]["XFD1048576"] = 1, 2  # a rectangle of 17 billion cells
    book.save(tmp_path / "a.xlsx")
    good = write_excel(tmp_path / "b.xlsx", {"a": DAYS})
    extractor.extract(good)
    before = extractor.process.pid
    found = reason(extractor, tmp_path / "a.xlsx")
    assert found.startswith(
        "the process that read it was ended by SIGABRT: the file is damaged, or needs more than 2,048"
    )
    assert extractor.extract(good).tables
    assert extractor.process.pid not in (None, before)


def test_child_that_hangs_is_ended_at_the_limit(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf")
    with FileExtractor(ExtractLimits(seconds=0.5)) as extractor:
        with suppress(ExtractError):
            extractor.extract(path)  # starts the child, on a slow machine for longer than the limit
        pid = extractor.process.pid
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
            wait_for(lambda: state_of(pid) == "T", "the child to stop")
        assert reason(extractor, path) == "it took longer than 0.5 s to read, which is the limit"
        assert extractor.process.pid is None


def test_child_that_was_killed_between_files_is_replaced(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf")
    with FileExtractor() as extractor:
        extractor.extract(path)
        pid = extractor.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: state_of(pid) == "Z", "the child to die")
        assert extractor.extract(path).text == LEAVE


def test_child_has_no_secrets_and_its_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAG_OUTBOX_DATABASE_URL", "mysql://user:secret@host/db")
    with FileExtractor() as extractor:
        extractor.extract(write_pdf(tmp_path / "a.pdf"))
        proc = Path(f"/proc/{extractor.process.pid}")
        assert b"secret" not in (proc / "environ").read_bytes()
        limits = (proc / "limits").read_text()
    assert f"Max address space         {DEFAULT_LIMITS.memory_bytes} " in limits
    assert "Max file size             0 " in limits


@pytest.mark.parametrize(
    ("deed", "expected"),
    [
        ("socket.create_connection(('127.0.0.1', 9))", "PermissionError: socket.getaddrinfo is not allowed"),
        ("socket.socket().connect(('127.0.0.1', 9))", "PermissionError: socket.connect is not allowed"),
        ("subprocess.run(['true'])", "PermissionError: subprocess.Popen is not allowed"),
        ("os.remove({target!r})", "PermissionError: os.remove is not allowed"),
        ("open({target!r}, 'w').write('x')", "PermissionError: open is not allowed"),
        ("bytearray(3 << 30)", "it needs more than 2,048 MiB of memory, which is the limit"),
        ("ctypes.string_at(0)", "the process that read it was ended by SIGSEGV"),
    ],
)
def test_reader_that_does_wrong_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, expected: str
) -> None:
    """A real child whose CSV reader is replaced, as a hole in a library would let a file do it."""
    (tmp_path / "target").write_text("kept")
    deed = deed.format(target=str(tmp_path / "target"))
    code = f"import csv, ctypes, os, socket, subprocess\ndef reader(*_, **__):\n    {deed}\ncsv.reader = reader\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "a.csv").write_text("a,b\n")
    with FileExtractor() as extractor:
        assert expected in reason(extractor, tmp_path / "a.csv")
    assert (tmp_path / "target").read_text() == "kept"


def test_child_ends_with_a_killed_parent(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "a.pdf")
    program = (
        "import sys; from pathlib import Path; from producer.processing.extract.extract import FileExtractor\n"
        "extractor = FileExtractor(); extractor.extract(Path(sys.argv[1])); print(extractor.process.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
        parent.kill()
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the child to end")


def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    monkeypatch.setattr(formats, "find_spec", lambda name: None if name == "pypdfium2" else found(name))
    with pytest.raises(MissingExtra, match=r"a PDF is read with the extra pdf: pip install 'rag-outbox\[pdf\]'$"):
        extract(write_pdf(tmp_path / "a.pdf"))
    assert extract(write_word(tmp_path / "a.docx")).text
