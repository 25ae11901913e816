"""Who may read and act in the console: tokens, sessions, other sites, other names of this machine."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from operations.web.console import app
from operations.web.console.access import Access
from producer import Writer
from schema.object_store.directory import DirectoryStore
from tests.support.console import ORIGIN, TOKEN, Browser, ConsoleSystem, browsing, refuse, words
from tests.support.pipeline import MODEL, document
from tests.support.written import tables

pytestmark = pytest.mark.integration

READ = ("/", "/documents", "/document?id=d1", "/search", "/dead-letters", "/consistency", "/sinks")
ACT = (
    "/document/resync",
    "/document/task/retry",
    "/dead-letters/replay",
    "/dead-letters/discard",
    "/consistency/check",
    "/consistency/stop",
    "/consistency/repair/run",
    "/sign-out",
)


@pytest.fixture
def system(sqlite: Engine, store: DirectoryStore, tmp_path: Path) -> ConsoleSystem:
    """Without Milvus: its document is still on its way."""
    with sqlite.begin() as connection:
        Writer(MODEL).upsert(connection, document("d1", "text", file=b"x"))
    return ConsoleSystem(sqlite, store, tmp_path / "data")


@pytest.fixture
def browser(system: ConsoleSystem) -> Iterator[Browser]:
    with browsing(system) as one:
        yield one


def form_token(browser: Browser, path: str) -> str:
    session = browser.console.sessions.find(browser.client.cookies.get("session"))
    assert session is not None
    return session.form_token(path)


def test_every_answer_has_the_security_headers(browser: Browser) -> None:
    for path in (*READ, "/static/console.js", "/none", "/documents?state=x", "/document/file?id=d1&key=x"):
        headers = browser.get(path).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
        assert "form-action 'self'; base-uri 'none'; frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"


def test_pages_have_no_inline_script_or_style(browser: Browser) -> None:
    browser.sign_in()
    for path in READ:
        page = browser.page(path)
        assert re.findall(r"<script(?![^>]* src=)", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", page) == []


def test_every_form_of_the_application_is_tested_here() -> None:
    assert {*ACT, "/session"} == set(app._SENT)


@pytest.mark.parametrize("kind", ["anonymous", "no form token", "token of another form", "another site", "null origin"])
def test_action_without_every_proof_is_refused(browser: Browser, sqlite: Engine, kind: str) -> None:
    letter = refuse(sqlite, "d1")
    if kind != "anonymous":
        browser.sign_in()
    before = tables(sqlite)
    for path in ACT:
        fields = {"id": "d1", "letter": str(letter), "reason": "r", "force": "1"}
        headers = {}
        if kind != "anonymous":
            fields["form_token"] = form_token(browser, path)
        match kind:
            case "no form token":
                del fields["form_token"]
            case "token of another form":
                fields["form_token"] = form_token(browser, "/elsewhere")
            case "another site":
                headers["origin"] = "https://example.org"
            case "null origin":
                headers["origin"] = "null"
        assert browser.post(path, fields, **headers).status_code == 403, path
    assert tables(sqlite) == before
    if kind != "anonymous":
        assert "Signed in as operator-1" in browser.page("/"), "the session still stands"


def test_form_without_an_origin_is_refused(browser: Browser) -> None:
    browser.sign_in()
    fields = {"form_token": form_token(browser, "/sign-out")}
    assert browser.client.post("/sign-out", data=fields).status_code == 403


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], f"{TOKEN}x", "é" * 40])
def test_wrong_token_signs_nobody_in(browser: Browser, token: str) -> None:
    answer = browser.post("/session", {"operator": "operator-1", "token": token})
    assert answer.status_code in (400, 403)
    assert "set-cookie" not in answer.headers
    assert "Signed in" not in browser.page("/")


def test_sign_in_from_another_site_is_refused(browser: Browser) -> None:
    answer = browser.post("/session", {"operator": "operator-1", "token": TOKEN}, origin="https://example.org")
    assert answer.status_code == 403
    assert browser.client.cookies.get("session") is None


def test_session_cookie_is_kept_from_scripts_and_other_sites(browser: Browser) -> None:
    fields = {"operator": "operator-1", "token": TOKEN}
    answer = browser.client.post("/session", data=fields, headers={"origin": ORIGIN}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie, "plain HTTP on this machine"
    assert TOKEN not in cookie
    headers = {"origin": ORIGIN, "x-forwarded-proto": "https"}
    behind_proxy = browser.client.post("/session", data=fields, headers=headers, follow_redirects=False)
    assert "secure" in behind_proxy.headers["set-cookie"].lower()


def test_sign_out_ends_the_session_for_every_copy_of_the_cookie(browser: Browser) -> None:
    browser.sign_in()
    copied = browser.client.cookies.get("session")
    browser.submit(browser.page("/"), "/sign-out")
    assert "Signed in" not in browser.page("/")
    assert copied is not None
    assert browser.console.sessions.find(copied) is None


def test_without_a_token_nobody_can_act(system: ConsoleSystem) -> None:
    with browsing(system, token=False) as browser:
        assert "This console only reads" in words(browser.page("/sign-in"))
        for token in ("", "None", TOKEN):
            assert browser.post("/session", {"operator": "operator-1", "token": token}).status_code in (400, 403)
        answer = browser.post("/document/resync", {"id": "d1"})
        assert answer.status_code == 403
        assert "This console only reads" in words(answer.text)
        assert "Send again" not in browser.page("/document?id=d1")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9480", "127.0.0.1.evil.example", ""])
def test_other_names_of_this_machine_are_refused(browser: Browser, host: str) -> None:
    answer = browser.get("/documents", host=host)
    assert answer.status_code == 421
    assert "d1" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:9480", "localhost:9480", "LOCALHOST", "[::1]:9480"])
def test_names_of_this_machine_are_known(browser: Browser, host: str) -> None:
    assert browser.get("/documents", host=host).status_code == 200


@pytest.mark.parametrize(
    ("access", "headers"),
    [
        (Access(False), {"host": "127.0.0.1:9480"}),
        (Access(False), {"host": "console.example"}),
        (Access(True, {"console.example"}), {"host": "console.example"}),
        (Access(True, {"console.example"}), {"host": "127.0.0.1:9480"}),
        (Access(True), {"x-forwarded-for": "10.0.0.1"}),
        (Access(True), {"forwarded": "for=10.0.0.1"}),
    ],
    ids=str,
)
def test_reading_from_elsewhere_needs_the_token(system: ConsoleSystem, access: Access, headers: dict[str, str]) -> None:
    with browsing(system, access=access) as browser:
        for path in set(app._SHOWN) - {"/sign-in", "/preferences"}:
            answer = browser.client.get(f"{path}?id=d1", headers=headers, follow_redirects=False)
            assert answer.status_code == 303, path
            assert answer.headers["location"].startswith("/sign-in?next=%2F")
            assert "Title of" not in answer.text


def test_whoever_signed_in_may_read_from_elsewhere(system: ConsoleSystem) -> None:
    with browsing(system, access=Access(False)) as browser:
        shown = browser.get("/document?id=d1").text
        assert "Title of d1" not in shown
        [target] = re.findall(r'name="next" value="([^"]+)"', shown)
        answer = browser.post("/session", {"operator": "operator-1", "token": TOKEN, "next": target})
        assert "Title of d1" in answer.text, "the page that was wanted"


@pytest.mark.parametrize("back", ["https://evil.example/", "//evil.example", "/\\evil.example", "javascript:x", "/\nx"])
def test_links_back_never_leave_the_console(browser: Browser, back: str) -> None:
    query = {"theme": "dark", "back": back}
    answer = browser.client.get("/preferences", params=query, follow_redirects=False)
    assert answer.headers["location"] == "/"
    fields = {"operator": "operator-1", "token": TOKEN, "next": back}
    answer = browser.client.post("/session", data=fields, headers={"origin": ORIGIN}, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_form_that_is_too_large_is_refused(browser: Browser) -> None:
    browser.sign_in()
    assert browser.post("/sign-out", {"form_token": "x" * 100_000}).status_code == 413
    files = {"form_token": ("a.txt", b"x" * 100_000)}
    assert browser.client.post("/sign-out", files=files, headers={"origin": ORIGIN}).status_code == 413


def test_form_of_another_kind_is_refused(browser: Browser) -> None:
    """A file or JSON in place of the fields: no proof, and no bug."""
    browser.sign_in()
    fields = {"form_token": form_token(browser, "/sign-out")}
    headers = {"origin": ORIGIN}
    assert browser.client.post("/sign-out", json=fields, headers=headers).status_code == 403
    files = {"form_token": ("a.txt", fields["form_token"].encode())}
    assert browser.client.post("/sign-out", files=files, headers=headers).status_code == 403
    assert "Signed in as operator-1" in browser.page("/")
