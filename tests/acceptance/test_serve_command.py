"""`rag-outbox serve` and `run --console`: what they print, refuse, and how they end."""

import hashlib
import socket
from contextlib import closing
from http import HTTPStatus

import pytest
import urllib3

from tests.acceptance.conftest import Here
from tests.support.commands import Folder
from tests.support.console import TOKEN_SHA256
from tests.support.served import running, serving
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance


def get(url: str, **headers: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", url, headers=headers, timeout=30, retries=False, redirect=False)


def test_serve_shows_the_pages_until_sigterm(folder: Folder) -> None:
    with serving(folder) as served:
        assert served.url.startswith("http://127.0.0.1:")
        answer = get(served.url)
        assert answer.status == HTTPStatus.OK
        assert b"Everything is current" in answer.data
        assert "server" not in answer.headers
        assert get(served.url, Host="evil.example").status == HTTPStatus.MISDIRECTED_REQUEST
        served.process.terminate()
        assert served.process.ended().status == 0


def test_run_shows_the_console_next_to_the_working_relay(folder: Folder) -> None:
    with running(folder) as served:
        folder.succeed("write", "-", stdin=b'{"doc_id": "d1", "title": "One", "source_type": "text", "chunks": []}')
        page = f"{served.url}document?id=d1"
        wait_for(lambda: b"badge completed" in get(page).data, "the document to be completed")
        wait_for(lambda: b"all lanes" in get(served.url).data, "the process")
        served.process.terminate()
        assert served.process.ended().status == 0


def test_other_addresses_need_a_token(folder: Folder, here: Here) -> None:
    for option in (("--host", "0.0.0.0"), ("--host", "console.example"), ("--allowed-host", "console.example")):
        outcome = here(folder, "serve", *option)
        assert outcome.status == 2
        assert (
            f"{option[0]}: other machines could read every document: set RAG_OUTBOX_CONSOLE_TOKEN_SHA256" in outcome.err
        )


def test_console_on_every_address_shows_nothing_without_the_token(folder: Folder) -> None:
    with serving(folder, "--host", "0.0.0.0") as served:
        answer = get(served.url.replace("0.0.0.0", "127.0.0.1") + "documents")
        assert answer.status == HTTPStatus.SEE_OTHER
        assert answer.headers["location"] == "/sign-in?next=%2Fdocuments"


def test_new_token_is_printed_with_its_digest(folder: Folder, here: Here) -> None:
    facts = here(folder, "serve", "--new-token", "--json").facts
    assert hashlib.sha256(facts["token"].encode()).hexdigest() == facts["sha256"]
    assert len(facts["token"]) >= 43
    assert here(folder, "serve", "--new-token", "--json").facts["token"] != facts["token"]


@pytest.mark.parametrize("digest", ["secret", TOKEN_SHA256.upper(), TOKEN_SHA256[:-1]])
def test_setting_that_is_no_digest_is_refused(folder: Folder, here: Here, digest: str) -> None:
    outcome = here(folder, "serve", console_token_sha256=digest)
    assert outcome.status == 2
    assert "RAG_OUTBOX_CONSOLE_TOKEN_SHA256" in outcome.err
    assert digest not in outcome.err


def test_port_that_is_taken_is_named(folder: Folder, here: Here) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        outcome = here(folder, "serve", "--port", port)
    assert outcome.status == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in outcome.err


def test_missing_extra_is_named(folder: Folder, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [*sys.modules]:
        if name.startswith("operations.web"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "litestar", None)
    outcome = here(folder, "serve")
    assert outcome.status == 2
    assert "the console needs litestar: install rag-outbox with its extra web" in outcome.err
