"""`rag-outbox write` with wrong input: the error names the line, and only the lines before it are written."""

import base64
import json
import signal
from pathlib import Path
from typing import Any

import pytest

from operations.ingest import upsert
from tests.acceptance.conftest import Here
from tests.support.commands import Folder

pytestmark = pytest.mark.acceptance


def line(doc_id: str = "bad", **fields: Any) -> bytes:
    document = {"doc_id": doc_id, "title": "Title", "source_type": "text", "chunks": [{"content": "Some words."}]}
    return json.dumps(document | fields).encode() + b"\n"


def chunk(**fields: Any) -> bytes:
    return line(chunks=[{"content": "Some words.", **fields}])


def literal(number: str) -> bytes:
    return chunk(vector="NUMBER").replace(b'"NUMBER"', f"[{number}]".encode())


EARLIER = line("earlier")
LATER = line("later")
ONES = [1.0] * 255

BAD_LINES = {
    "cut off in the middle": (b'{"doc_id": "bad", "title": "Ti', "Input data was truncated"),
    "not JSON": (b"doc_id: bad\n", "JSON is malformed: invalid character (byte 0)"),
    "no object": (b"null\n", "Expected `object`, got `null`"),
    "not UTF-8": (b'{"doc_id": "b\xffd", "title": 1}\n', "not UTF-8: byte 0xff at offset 13"),
    "not UTF-8 in Latin-1": (b'{"doc_id": "bad", "title": "caf\xe9"}\n', "not UTF-8: byte 0xe9 at offset 31"),
    "wrong type": (line(title=7), "Expected `str`, got `int` - at `$.title`"),
    "wrong type in a chunk": (chunk(content=None), "Expected `str`, got `null` - at `$.chunks[0].content`"),
    "unknown field": (line(titel="x"), "Object contains unknown field `titel`"),
    "unknown field in a chunk": (chunk(text="x"), "Object contains unknown field `text` - at `$.chunks[0]`"),
    "doc_id missing": (b'{"title": "Title"}\n', "Object missing required field `doc_id`"),
    "NaN": (literal("NaN"), "JSON is malformed: invalid character (byte 108)"),
    "Infinity": (literal("1, Infinity"), "JSON is malformed: invalid character (byte 111)"),
    "1e400": (literal("1e400"), "Number out of range - at `$.chunks[0].vector[0]`"),
    "beyond float32": (
        chunk(vector=[*ONES, 1e39]),
        "document 'bad': chunks[0].vector must be finite as float32, has inf at position 255",
    ),
    "too few dimensions": (chunk(vector=ONES), "document 'bad': chunks[0].vector must have 256 dimensions, has 255"),
    "sparse weights of a word": (
        chunk(vector=[*ONES, 1.0], sparse={"word": 0.5}),
        "Expected `int`, got `str` - at `key` in `$.chunks[0].sparse`",
    ),
    "sparse weight of zero": (
        chunk(vector=[*ONES, 1.0], sparse={"5": 0}),
        "document 'bad': chunks[0].sparse must have weights above 0 that fit float32, has 0.0 at id 5",
    ),
    "sparse weights alone": (
        chunk(sparse={"5": 0.5}),
        "document 'bad': chunks[0].sparse must come with the chunk's vector",
    ),
    "unknown source_type": (
        line(source_type="Text"),
        "document 'bad': source_type must be one of pdf, word, image, webpage, table, text, is 'Text'",
    ),
    "id that leaves its folder": (
        line("../bad"),
        "document '../bad': doc_id must not contain / or \\, nor start with a dot: it names files in the object store",
    ),
    "control character": (line(title="Ti\x07tle"), "document 'bad': title must not contain control characters"),
    "lone surrogate": (
        line(title="\ud800"),
        "JSON is malformed: unexpected end of escaped utf-16 surrogate pair (byte 34)",
    ),
    "file without a folder of files": (
        line(file={"path": "note.md"}),
        "a path is refused without --files-below DIR - at `$.file.path`",
    ),
    "broken base64": (line(file={"base64": "YWJ"}), "Incorrect padding - at `$.file.base64`"),
    "no base64": (
        line(file={"base64": "Äpfel"}),
        "string argument should contain only ASCII characters - at `$.file.base64`",
    ),
    "two files": (line(file={"path": "a", "base64": "YQ=="}), "file needs either `path` or `base64` - at `$.file`"),
    "no file in it": (line(file={}), "file needs either `path` or `base64` - at `$.file`"),
    "another model": (
        line(embedding_model="bge-m3"),
        "document 'bad': embedding_model must be the system's model 'wordllama-l2_supercat-256', is 'bge-m3'",
    ),
    "a million characters": (
        chunk(content="x" * 1_000_000),
        "document 'bad': chunks[0].content must be at most 65535 bytes of UTF-8, has 1000000",
    ),
}


@pytest.fixture(scope="module")
def written(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A data folder that holds the document `earlier`."""
    folder = Folder.copied(prepared, tmp_path_factory.mktemp("written") / "data")
    assert folder.succeed("write", "-", stdin=EARLIER)["written"] == 1
    return folder


@pytest.mark.parametrize("name", BAD_LINES)
def test_invariant_13_bad_line_is_named_and_not_written(name: str, written: Folder, tmp_path: Path, here: Here) -> None:
    bad, reason = BAD_LINES[name]
    folder = Folder.copied(written, tmp_path / "data")
    before = folder.dump(), folder.objects()
    stdin = EARLIER + b"\n" + bad + (LATER if bad.endswith(b"\n") else b"")

    outcome = here(folder, "write", "-", "--json", stdin=stdin)

    assert outcome.status == 1
    assert outcome.facts == {"error": f"line 3: {reason}"}
    assert outcome.err == f"rag-outbox: line 3: {reason}\n"
    assert (folder.dump(), folder.objects()) == before


def test_lines_before_malformed_line_are_written(folder: Folder) -> None:
    lines = b"".join(line(f"doc-{number:03d}") for number in range(150))  # more than one batch
    outcome = folder.run("write", "-", stdin=lines + b'{"doc_id": "cut", "tit')

    assert (outcome.status, outcome.err) == (1, "rag-outbox: line 151: Input data was truncated\n")
    assert folder.sql("SELECT doc_id FROM documents ORDER BY doc_id") == [
        (f"doc-{number:03d}",) for number in range(150)
    ]


def test_lines_before_refused_document_are_written(folder: Folder) -> None:
    outcome = folder.run("write", "-", stdin=EARLIER + line(title="") + LATER)

    assert (outcome.status, outcome.err) == (1, "rag-outbox: line 2: document 'bad': title must not be empty\n")
    assert folder.sql("SELECT doc_id FROM documents") == [("earlier",)]


def test_long_error_message_is_cut(folder: Folder) -> None:
    outcome = folder.run("write", "-", stdin=line("x" * 1_000_000))

    assert outcome.status == 1
    assert outcome.err.startswith("rag-outbox: line 1: document 'xxx")
    assert len(outcome.err) < 2_100
    assert folder.sql("SELECT * FROM documents") == []


def test_blank_lines_line_ends_and_byte_order_mark_are_skipped(folder: Folder) -> None:
    given = b"\xef\xbb\xbf\r\n  \n" + EARLIER.replace(b"\n", b"\r\n") + b"\n\n" + LATER.rstrip()

    assert folder.succeed("write", "-", stdin=given) == {
        "written": 2,
        "unchanged": 0,
        "chunks": 2,
        "embedded": 2,
        "retries": {},
    }
    assert folder.sql("SELECT doc_id FROM documents ORDER BY doc_id") == [("earlier",), ("later",)]


def test_byte_order_mark_before_document_is_skipped(folder: Folder) -> None:
    assert folder.succeed("write", "-", stdin=b"\xef\xbb\xbf" + EARLIER)["written"] == 1


def test_empty_input_writes_nothing(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()

    nothing = {"written": 0, "unchanged": 0, "chunks": 0, "embedded": 0, "retries": {}}
    assert folder.succeed("write", "empty.jsonl") == nothing
    assert folder.succeed("write", "-") == nothing


def test_later_line_for_same_document_wins(folder: Folder) -> None:
    given = line("twice", title="First") + line("twice", title="Second")

    assert folder.succeed("write", "-", stdin=given) == {
        "written": 2,
        "unchanged": 0,
        "chunks": 2,
        "embedded": 2,
        "retries": {},
    }
    assert folder.sql("SELECT doc_id, title, version FROM documents") == [("twice", "Second", 2)]
    assert folder.sql("SELECT aggregate_version FROM outbox ORDER BY id") == [(1,), (2,)]


def test_file_paths_start_at_folder_of_files(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "note.md").write_bytes(b"# A note\n")
    encoded = base64.b64encode(b"A table").decode()
    given = line("by-path", file={"path": "note.md"}) + line("in-base64", file={"base64": encoded, "name": "table.csv"})

    assert folder.succeed("write", "-", "--files-below", "files", stdin=given)["written"] == 2
    files = folder.sql("SELECT doc_id, size_bytes, content_type, object_key FROM document_files ORDER BY doc_id")
    assert [row[:3] for row in files] == [("by-path", 9, "text/markdown"), ("in-base64", 7, "text/csv")]
    assert files[0][3].endswith("/by-path.md")
    assert files[1][3].endswith("/in-base64.csv")


def test_paths_that_leave_folder_of_files_are_refused(folder: Folder, tmp_path: Path, here: Here) -> None:
    files = tmp_path / "files"
    (files / "sub").mkdir(parents=True)
    (tmp_path / "secret.md").write_text("secret")
    (tmp_path / "files-2").mkdir()
    (files / "link.md").symlink_to("../secret.md")
    (files / "up").symlink_to("..")
    (files / "loop.md").symlink_to("loop.md")
    outside = ("../secret.md", "/etc/hostname", "link.md", "up/secret.md", "sub/../../secret.md", "../files-2")
    reasons = {path: f"line 1: {path!r} leads outside of files - at `$.file.path`" for path in outside} | {
        "gone.md": f"line 1: cannot read {files}/gone.md: No such file or directory",
        "sub": f"line 1: cannot read {files}/sub: Is a directory",
        "nul\0.md": "line 1: cannot read 'nul\\x00.md': embedded null byte - at `$.file.path`",
    }
    for path, reason in reasons.items():
        given = line(file={"path": path})
        outcome = here(folder, "write", "-", "--files-below", "files", "--json", stdin=given)
        assert (outcome.status, outcome.facts) == (1, {"error": reason})
    given = line(file={"path": "loop.md"})
    assert here(folder, "write", "-", "--files-below", "files", "--json", stdin=given).status == 1
    assert folder.sql("SELECT * FROM documents") == []


def test_interrupted_write_tells_what_it_wrote(folder: Folder, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    real_upsert = upsert.upsert

    def interrupt_second(*arguments: Any) -> Any:
        if folder.sql("SELECT 1 FROM documents"):
            signal.raise_signal(signal.SIGINT)
        return real_upsert(*arguments)

    monkeypatch.setattr(upsert, "upsert", interrupt_second)
    given = b"".join(line(f"doc-{number:03d}") for number in range(150))  # more than one batch
    outcome = here(folder, "write", "-", "--json", stdin=given)
    assert (outcome.status, outcome.facts["error"], outcome.facts["written"]) == (130, "interrupted", 100)
    assert outcome.err == "rag-outbox: interrupted; wrote 100 documents with 100 chunks; 0 unchanged.\n"


@pytest.mark.parametrize(
    ("file", "reason"),
    [("gone.jsonl", "'gone.jsonl': No such file or directory"), ("data", "'data': Is a directory")],
)
def test_unopenable_input_is_wrong_usage(file: str, reason: str, folder: Folder) -> None:
    outcome = folder.run("write", file)

    assert (outcome.status, outcome.out) == (2, "")
    assert reason in outcome.err
    assert "Traceback" not in outcome.err


def test_unreadable_input_is_an_error(folder: Folder) -> None:
    outcome = folder.run("write", "/proc/self/mem")  # can be opened, but its first bytes cannot be read, even by root

    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == "rag-outbox: line 1: cannot be read: Input/output error\n"
