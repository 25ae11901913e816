"""`rag-outbox ingest URL`: a page is fetched once, and is then a document like that of a file."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from producer.processing.extract.formats import WORD
from tests.acceptance.conftest import Here
from tests.acceptance.test_ingest import NOTHING, wrote
from tests.support import web_server
from tests.support.commands import Folder
from tests.support.sample_files import LEAVE, write_pdf, write_word
from tests.support.web_server import WebServer, page, redirect

pytestmark = pytest.mark.acceptance

DOCUMENTS = "SELECT title, source_type, source_url FROM documents WHERE deleted_at IS NULL ORDER BY source_url"
OFFLINE = """
import sys

def refuse(event, details):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        sys.stderr.write(f"network: {event}\\n")

sys.addaudithook(refuse)
from operations.cli.main import main
main()
"""


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server.serve() as served:
        yield served


def html(text: str, title: str = "Parking", head: str = "") -> bytes:
    return f"<html><head>{head}<title>{title}</title></head><body><p>{text}</p></body></html>".encode()


def test_page_becomes_a_document_that_a_question_finds(folder: Folder, server: WebServer, here: Here) -> None:
    server.pages["/help/parking?lang=en"] = page(html("Visitors park behind the house."))
    url = server.url("/help/parking?lang=en")

    outcome = here(folder, "ingest", f"{url}#rules", "--business-tag", "house", "--json")

    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.facts == NOTHING | wrote("webpage", 1, 1, embedded=1)
    assert folder.sql(DOCUMENTS) == [("Parking", "webpage", url)]
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()
    [hit] = here(folder, "search", "where do visitors park", "--limit", "1", "--json").facts["hits"]
    assert hit["title"] == "Parking"
    assert hit["doc_id"].startswith("parking-")
    [raw] = [content for key, content in folder.objects().items() if key.startswith("raw-files/")]
    assert raw == html("Visitors park behind the house.")
    assert server.paths == ["/help/parking?lang=en"]


def test_only_a_changed_page_is_written_again(folder: Folder, server: WebServer, here: Here) -> None:
    url = server.url("/a")
    server.pages["/a"] = page(html("First."))
    here(folder, "ingest", url)
    assert here(folder, "ingest", url, url, "--json").facts == NOTHING | {"unchanged": 1}
    assert len(server.requests) == 2
    [first] = folder.sql("SELECT doc_id, version FROM documents")

    server.pages["/a"] = page(html("Second."))
    assert here(folder, "ingest", f"{url}#top", "--json").facts["written"] == 1
    assert folder.sql("SELECT doc_id, version FROM documents") == [(first[0], first[1] + 1)]
    assert folder.sql("SELECT content FROM chunks") == [("Second.",)]


def test_content_type_says_how_a_page_is_read(folder: Folder, server: WebServer, here: Here, tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "a.pdf", title="Handbook").read_bytes()
    word = write_word(tmp_path / "a.docx").read_bytes()
    server.pages |= {
        "/1/download?id=7": page(pdf, "application/pdf"),
        "/2/report.php": page(word, f"{WORD.content_type}; charset=binary"),
        "/3/notes.md": page(b"# Printers\n\nSecond floor.", "text/plain; charset=utf-8"),
        "/4/rooms": page(b"room,seats\nAtlantic,12\n", "text/csv"),
        "/5/file": page(pdf, "application/octet-stream"),
        "/6/": page(b"Words of a plain text.", "text/plain"),
        "/7/x.txt": page(html("Words of a page.", title="Page"), "application/xhtml+xml"),
        "/8/logo": page(b"<svg/>", "image/svg+xml"),
        "/9/data.json": page(b"{}", None),
    }
    outcome = here(folder, "ingest", *(server.url(path) for path in server.pages), "--json")

    unknown = "and its content has no signature of a format that is read"
    assert outcome.facts["failed"] == [
        f"{server.url('/8/logo')}: content type 'image/svg+xml', {unknown}",
        f"{server.url('/9/data.json')}: no content type, {unknown}",
    ]
    assert (outcome.status, outcome.facts["written"]) == (1, 7)
    assert [row[:2] for row in folder.sql(DOCUMENTS)] == [
        ("Handbook", "pdf"),
        ("Leave policy", "word"),
        ("Printers", "text"),
        ("rooms", "table"),
        ("Handbook", "pdf"),
        ("6", "text"),
        ("Page", "webpage"),
    ]


@pytest.mark.parametrize(
    ("sent_as", "header", "head"),
    [
        ("cp1251", "text/html; charset=windows-1251", ""),
        ("cp1251", "text/html", '<meta charset="windows-1251">'),
        ("cp1251", "text/html; charset=windows-1251", '<meta charset="utf-8">'),  # the server wins
        ("utf-8", "text/html; charset=UTF-8", '<meta charset="windows-1251">'),
        ("utf-8", "text/html; charset=ISO-8859-1", '<meta charset="utf-8">'),  # the default of a server
        ("cp1251", "text/html; charset=utf-8", '<meta charset="windows-1251">'),  # the server is wrong
        ("cp1251", "text/html; charset=nonsense", '<meta charset="windows-1251">'),
        ("utf-16-le", "text/html; charset=utf-16le", ""),
        ("cp1251", "text/plain; charset=windows-1251", None),
    ],
)
def test_encoding_comes_from_the_server_or_the_page(
    sent_as: str, header: str, head: str | None, folder: Folder, server: WebServer, here: Here
) -> None:
    text = "Принтер"
    content = text if head is None else f"<html><head>{head}</head><body><p>{text}</p></body></html>"
    server.pages["/a"] = page(content.encode(sent_as), header)
    assert here(folder, "ingest", server.url("/a"), "--json").facts["failed"] == []
    assert folder.sql("SELECT content FROM chunks") == [(text,)]
    assert here(folder, "ingest", server.url("/a"), "--json").facts["unchanged"] == 1


def test_wrong_encoding_is_refused_by_name(folder: Folder, server: WebServer, here: Here) -> None:
    server.pages["/a"] = page(b"<html><body>caf\xe9</body></html>", "text/html; charset=utf-8")
    [reason] = here(folder, "ingest", server.url("/a"), "--json").facts["failed"]
    assert reason.startswith(f"{server.url('/a')}: not UTF-8: byte 0xe9 at offset 15")
    assert folder.sql(DOCUMENTS) == []


def test_nothing_in_a_page_is_followed(folder: Folder, server: WebServer, here: Here) -> None:
    names = ("image", "style", "script", "frame", "link", "refresh", "dtd", "entity", "object", "base/relative")
    at = {name: server.url(f"/{name}") for name in names}
    server.pages["/a"] = page(
        f"""<!DOCTYPE html SYSTEM "{at["dtd"]}" [<!ENTITY e SYSTEM "{at["entity"]}">]>
        <html><head><base href="{at["base/relative"]}"><link rel="stylesheet" href="{at["style"]}">
        <meta http-equiv="refresh" content="0; url={at["refresh"]}"><script src="{at["script"]}"></script></head>
        <body><p>Words of the page. &e;</p><img src="{at["image"]}" srcset="{at["image"]} 2x"><a href="{at["link"]}">
        more</a><iframe src="{at["frame"]}"></iframe><object data="{at["object"]}"></object></body></html>""".encode()
    )
    assert here(folder, "ingest", server.url("/a"), "--json").facts["written"] == 1
    folder.succeed("run", "--until-idle")
    assert server.paths == ["/a"]


def test_redirect_is_shown_and_the_given_url_counts(folder: Folder, server: WebServer, here: Here) -> None:
    server.pages |= {"/old": redirect("/new?token=secret"), "/new?token=secret": page(html("Moved."))}
    shown = f"{server.url('/old')} → {server.url('/new')}"
    outcome = here(folder, "ingest", server.url("/old"), "--json")
    assert (outcome.status, outcome.err) == (0, f"redirected: {shown}\n")
    assert outcome.facts == NOTHING | wrote("webpage", 1, 1, embedded=1) | {"redirected": [shown]}
    assert folder.sql(DOCUMENTS) == [("Parking", "webpage", server.url("/old"))]


def test_failing_page_is_named_and_others_are_written(
    folder: Folder, server: WebServer, here: Here, tmp_path: Path
) -> None:
    (tmp_path / "a.md").write_text("Words.")
    server.pages |= {"/b": page(html("Words of b.")), "/empty": page(b"")}
    outcome = here(folder, "ingest", *map(server.url, ("/b", "/gone", "/empty")), "a.md", "--json")
    assert outcome.status == 1
    failed = [
        f"{server.url('/gone')}: HTTP status 404 Not Found",
        f"{server.url('/empty')}: no text in it: the file is empty or blank",
    ]
    assert (outcome.facts["written"], outcome.facts["failed"]) == (2, failed)
    assert outcome.err.splitlines() == [f"failed: {reason}" for reason in failed]


def test_unusable_url_ends_the_command_before_anything_is_fetched(
    folder: Folder, server: WebServer, here: Here, tmp_path: Path
) -> None:
    server.pages["/a"] = page(html("Words."))
    for wrong, reason in (
        ("https://alice:secret@exa mple.org/", "https://exa mple.org/: not a valid URL"),
        ("ftp://alice:secret@example.org/a", "ftp://…: only URLs with http:// or https:// are fetched; give other fi"),
        ("gone.md", "no such file or folder: gone.md"),
    ):
        outcome = here(folder, "ingest", server.url("/a"), wrong, "--json")
        assert outcome.status == 2
        assert outcome.facts["error"].startswith(reason)
        assert "secret" not in outcome.out + outcome.err
    outcome = here(folder, "ingest", server.url("/a"), "--source", "s", "--json")
    assert outcome.facts["error"] == "--source names one folder: give it as the only PATH"
    assert (server.requests, folder.sql(DOCUMENTS)) == ([], [])


def test_credentials_are_stored_nowhere(folder: Folder, server: WebServer, here: Here) -> None:
    server.pages |= {"/a?x=1&sig=s3cret": page(html("Words.")), "/gone?sig=s3cret": page(b"s3cret", status=403)}
    urls = [server.url(path, "alice:s3cret@") for path in ("/a?x=1&sig=s3cret", "/gone?sig=s3cret")]
    said = ""
    for options in (["--dry-run"], ["--queue"], ["--force"]):
        outcome = here(folder, "ingest", *urls, "--json", *options)
        assert outcome.facts["failed"] == [f"{server.url('/gone')}: HTTP status 403 Forbidden"]
        said += outcome.out + outcome.err
    assert folder.sql("SELECT source_url FROM documents") == [(server.url("/a?x=1"),)]
    folder.succeed("run", "--until-idle")
    assert all("Authorization" in headers for _, headers in server.requests)
    stored = b"".join(path.read_bytes() for path in folder.path.rglob("*") if path.is_file())
    assert b"Words." in stored
    assert "s3cret" not in said
    assert b"s3cret" not in stored
    assert b"alice" not in stored


def test_dry_run_fetches_and_touches_nothing(folder: Folder, server: WebServer, here: Here) -> None:
    server.pages["/a"] = page(html("Words."))
    before = folder.dump(), folder.objects()
    facts = here(folder, "ingest", server.url("/a"), "--dry-run", "--json").facts
    assert (facts["written"], facts["would_write"]) == (1, [server.url("/a")])
    assert (folder.dump(), folder.objects()) == before
    assert server.paths == ["/a"]


def test_queued_page_is_processed_by_a_worker(folder: Folder, server: WebServer, here: Here, tmp_path: Path) -> None:
    pdf = write_pdf(tmp_path / "a.pdf", title="Handbook").read_bytes()
    russian = "<html><body><p>Принтер</p></body></html>".encode("cp1251")
    server.pages |= {
        "/handbook": page(pdf, "application/pdf"),
        "/a": page(russian, "text/html; charset=windows-1251"),
    }
    urls = [server.url("/handbook"), server.url("/a")]
    assert here(folder, "ingest", *urls, "--queue", "--json").facts == NOTHING | {"queued": 2}
    assert here(folder, "ingest", *urls, "--queue", "--json").facts == NOTHING | {"unchanged": 2}
    folder.succeed("run", "--until-idle")
    folder.assert_in_step()
    assert [row[:2] for row in folder.sql(DOCUMENTS)] == [("a", "webpage"), ("Handbook", "pdf")]
    assert sorted(folder.sql("SELECT content FROM chunks")) == [(LEAVE,), ("Принтер",)]
    assert here(folder, "ingest", *urls, "--json").facts == NOTHING | {"unchanged": 2}


def test_missing_files_are_deleted_and_pages_stay(
    folder: Folder, server: WebServer, here: Here, tmp_path: Path
) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("a.md", "b.md", "c.md"):
        (docs / name).write_text(f"Words of {name}.")
    server.pages["/page"] = page(html("Words."))
    here(folder, "ingest", "docs", server.url("/page"))
    (docs / "a.md").unlink()
    del server.pages["/page"]
    facts = here(folder, "ingest", "docs", server.url("/page"), "--delete-missing", "--json").facts
    assert (facts["deleted"], facts["unchanged"], len(facts["failed"])) == (1, 2, 1)
    assert [row[0] for row in folder.sql(DOCUMENTS)] == ["b", "c", "Parking"]


def test_paths_use_no_network(folder: Folder, server: WebServer, tmp_path: Path) -> None:
    """Every use of a socket is reported by Python itself; with a URL, the same command does report one."""
    docs = tmp_path / "docs"
    docs.mkdir()
    link = f'<link rel="stylesheet" href="{server.url("/style")}">'
    (docs / "a.html").write_bytes(html(f'Words.<img src="{server.url("/image")}">', head=link))
    (docs / "b.md").write_text(f"![image]({server.url('/image')})")
    server.pages["/a"] = page(html("Words."))

    def ingest(argument: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", OFFLINE, "ingest", argument],
            env=folder.environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    offline = ingest("docs")
    assert (offline.returncode, offline.stderr) == (0, "")
    assert offline.stdout.startswith("Wrote 2 documents")
    assert server.requests == []
    assert "network: socket.connect" in ingest(server.url("/a")).stderr
