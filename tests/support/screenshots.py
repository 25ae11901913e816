"""docs/pictures/console-*.png, of a real system with this repository's pages: `python -m tests.support.screenshots`.

The chart's line is real, and its time is not: looks that were taken within seconds are shown as 15 minutes.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser
from sqlalchemy import text

import producer
from compose.native.cache import Cache
from compose.native.chromium import Chromium
from operations import wiring
from operations.ingest.upsert import upsert
from operations.profiles import embedded
from operations.settings import Settings
from operations.web.console.access import Access
from operations.web.console.app import make_app
from operations.web.console.checks import Checks
from operations.web.console.console import Console
from operations.web.console.live import KEPT_SECONDS, READ_SECONDS, Sampler
from operations.web.console.server import run_app
from operations.web.console.sessions import Sessions
from operations.wiring import System
from schema.threads import run_in_background
from tests.support import browser as chromium
from tests.support.browser import sign_in
from tests.support.commands import Folder
from tests.support.console import TOKEN_SHA256, refuse
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
_LOOKS = round(KEPT_SECONDS / READ_SECONDS)
_PAUSE_SECONDS = 0.1
_TITLES = ("Employment contract", "Travel policy", "Security handbook", "Release notes", "Onboarding", "Price list")
_TAGS = ("hr", "hr", "it", "product", "hr", "sales")


def main() -> None:
    program = Chromium(Cache.of_this_user())
    program.fetch()
    with TemporaryDirectory() as scratch:
        prepare(Folder(Path(scratch, "rag-outbox-data")))
        os.chdir(scratch)  # so that no picture shows a path of this machine
        settings = Settings(console_token_sha256=TOKEN_SHA256)
        with (
            wiring.open_system(settings) as system,
            serving(system) as (url, console),
            chromium.chromium(str(program.program)) as browser,
        ):
            take_all(browser, url, console)


def prepare(folder: Folder) -> None:
    """Documents of this repository and some business ones, all applied."""
    folder.succeed("init")
    folder.succeed("ingest", str(ROOT / "docs" / "runbooks"), "--business-tag", "runbooks")
    folder.succeed("ingest", str(ROOT / "docs" / "decisions"), "--business-tag", "decisions")
    folder.run("run", "--until-idle")


@contextmanager
def serving(system: System) -> Iterator[tuple[str, Console]]:
    """A console next to a relay that has just had some work."""
    sampler = Sampler(system)
    console = Console(system, sampler, Checks(), Sessions(TOKEN_SHA256), Access(True), "session")
    listener = socket.create_server(("127.0.0.1", 0))
    with relaying(system):
        load(system, sampler)
        with run_app(make_app(console), listener):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/", console


@contextmanager
def relaying(system: System) -> Iterator[None]:
    def relay(stop: threading.Event) -> None:
        embedded.run(
            system,
            stop,
            until_idle=False,
            patience_seconds=None,
            report=lambda _: None,
            failing=lambda *_: None,
        )

    with run_in_background(relay, "relay"):
        yield


def load(system: System, sampler: Sampler) -> None:
    """Writers come and go, and the relay follows; a look after each step."""
    number, pause = 0, threading.Event()
    for step in range(_LOOKS - 1):
        count = 60 if step % 60 in range(10, 16) else 1
        write(system, range(number, number + count))
        number += count
        sampler.look()
        pause.wait(_PAUSE_SECONDS)
    wait_for(lambda: embedded.pending_events(system) == 0, "the relay", timeout_seconds=600)
    sampler.look()
    now = time.time()
    samples = [replace(one, at=now - READ_SECONDS * (_LOOKS - at)) for at, one in enumerate(sampler.samples, 1)]
    sampler._samples.clear()
    sampler._samples.extend(samples)


def write(system: System, numbers: range) -> None:
    documents = []
    for number in numbers:
        kind = number % len(_TITLES)
        content = f"{_TITLES[kind]} number {number}: who may sign, what it costs, and when it ends."
        document = producer.Document(
            doc_id=f"doc-{number:05}",
            title=f"{_TITLES[kind]} {number}",
            source_type=("pdf", "word", "webpage", "text", "table", "pdf")[kind],
            business_tag=_TAGS[kind],
            chunks=[producer.Chunk(content=content)],
            file=producer.DocumentFile.from_bytes(content.encode(), "original.txt"),
        )
        documents.append(document)
    upsert(system.engine, system.store, system.writer(), documents, system.embedder)


def write_story(system: System) -> None:
    """A document with three versions."""
    for rule in ("Book the cheapest fare.", "Book at least two weeks before.", "Hotels: up to 150 per night."):
        texts = ("Every journey needs the consent of the head of the team.", rule, "Receipts are due within a month.")
        document = producer.Document(
            doc_id="travel-policy",
            title="Travel policy",
            source_type="pdf",
            source_url="https://intranet.example.org/policies/travel",
            business_tag="hr",
            domain="policies",
            language="en",
            chunks=[producer.Chunk(content=text) for text in texts],
            file=producer.DocumentFile.from_bytes(rule.encode(), "travel-policy.pdf"),
        )
        upsert(system.engine, system.store, system.writer(), [document], system.embedder)
        wait_for(lambda: embedded.pending_events(system) == 0, "the relay")


def take_all(browser: Browser, url: str, console: Console) -> None:
    engine = console.system.engine
    take(browser, url, "health", "/")
    take(browser, url, "health-zh", "/", locale="zh-TW", color_scheme="dark")
    take(browser, url, "health-narrow", "/", color_scheme="dark", viewport=chromium.NARROW)
    take(browser, url, "documents", "/documents?title=security&limit=12", locale="en-GB")
    for number, reason in enumerate(("the vector has 128 numbers, the collection takes 256", "modal_type is too long")):
        refuse(engine, f"doc-0000{number + 1}", reason)
    refuse(engine, "doc-00004", "the object is larger than the store takes", stage="minio")
    write_story(console.system)
    take(browser, url, "document", "/document?id=travel-policy", color_scheme="dark", signed_in=True)
    take(browser, url, "search", "/search?q=no+relay+publishes+events&tag=runbooks&limit=4", beside=True)
    take(browser, url, "dead-letters", "/dead-letters", signed_in=True)
    take(browser, url, "sinks", "/sinks", color_scheme="dark")
    with engine.begin() as connection:
        broken = "UPDATE chunks SET milvus_synced = 0 WHERE doc_id IN ('doc-00010', 'doc-00020')"
        connection.execute(text(broken))
        connection.execute(text("UPDATE documents SET status = 'pending' WHERE doc_id = 'doc-00030'"))
    take(browser, url, "consistency", "/consistency", signed_in=True, check=True, console=console)


def take(browser: Browser, url: str, name: str, path: str, **wanted: Any) -> None:
    """A picture of the first screen of a page."""
    signed_in, beside = (wanted.pop(flag, False) for flag in ("signed_in", "beside"))
    check, console = wanted.pop("check", False), wanted.pop("console", None)
    window = {**wanted.pop("viewport", chromium.WIDE), "height": 900}
    options = {"color_scheme": "light", "viewport": window} | wanted
    with chromium.page(browser, url, **options) as page:
        if signed_in:
            sign_in(page)
        page.goto(path)
        if beside:
            page.locator("a[data-beside]").first.click()
            page.locator("#beside h2").wait_for()
        if check:
            page.get_by_role("button", name="Start a check").click()
            wait_for(lambda: not console.checks.last.is_running, "the check", timeout_seconds=300)
            page.goto(path)
        page.screenshot(path=PICTURES / f"console-{name}.png")
        sys.stdout.write(f"console-{name}.png\n")


if __name__ == "__main__":
    main()
