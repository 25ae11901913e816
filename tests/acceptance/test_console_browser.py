"""The console in a headless Chromium, served by the real command next to a working relay."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import browser as chromium
from tests.support.browser import NARROW, findings, overflow, sign_in
from tests.support.commands import Folder
from tests.support.served import running, serving
from tests.support.waiting import wait_for

pytestmark = pytest.mark.acceptance

expect.set_options(timeout=60_000)

PAGES = (
    "/",
    "/documents",
    "/document?id=d1",
    "/search?q=relays",
    "/dead-letters",
    "/consistency",
    "/sinks",
    "/sign-in",
)
MORE = ("/dead-letter?id=1", "/dead-letters/confirm?action=discard&letter=1")
HOSTILE = '<img src=x onerror="document.title=1"><script>document.title=1</script>'
LETTER = (
    "INSERT INTO outbox_dead_letters (stage, outbox_id, event_id, aggregate_type, aggregate_id, aggregate_version, "
    "event_type, content_type, payload, error, attempts) "
    "VALUES ('milvus', 0, '{0}', 'document', '{1}', 1, 'rag.document.upserted.v1', 'application/json', 'x', '{2}', 1)"
)

TASK = (
    "INSERT INTO processing_tasks (task_id, task_type, doc_id, status, error_message, version, upload_id) "
    "VALUES ('t1', 'extract', 'd1', 'failed', 'note.pdf: damaged', 1, 't1')"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.chromium(chromium.program()) as one:
        yield one


@pytest.fixture(scope="module")
def written(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Two documents, one of them hostile, and a dead letter of each."""
    folder = Folder.copied(prepared, tmp_path_factory.mktemp("written") / "data")
    lines = [
        {"doc_id": "d1", "title": "Handbook of relays", "chunks": [{"content": "Relays publish events in order."}]},
        {"doc_id": "d2", "title": HOSTILE, "business_tag": "<b>", "chunks": [{"content": HOSTILE}]},
    ]
    stdin = "\n".join(json.dumps({"source_type": "text", **line}) for line in lines).encode()
    folder.succeed("write", "-", stdin=stdin)
    folder.change(LETTER.format("e1", "d1", "the vector has 7 numbers"))
    folder.change(LETTER.format("e2", "d2", HOSTILE.replace("'", "''")))
    return folder


@pytest.fixture
def folder(written: Folder, tmp_path: Path) -> Folder:
    """A folder to change; nothing is applied in it."""
    return Folder.copied(written, tmp_path / "data")


@pytest.fixture(scope="module")
def url(written: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A console for the tests that only read, next to a relay that has applied everything."""
    folder = Folder.copied(written, tmp_path_factory.mktemp("applied") / "data")
    with running(folder) as served:
        wait_until_applied(folder)
        folder.change("UPDATE documents SET updated_at = '2026-01-31 20:15:00.5' WHERE doc_id = 'd1'")
        yield served.url


def wait_until_applied(folder: Folder) -> None:
    applied = "SELECT count(*) FROM sink_states WHERE state = 'applied'"
    wait_for(lambda: folder.sql(applied) == [(4,)], "the documents to be applied")


def test_pages_have_no_serious_axe_findings(browser: Browser, url: str) -> None:
    with chromium.page(browser, url, color_scheme="light") as page:
        found = []
        for path in PAGES:
            page.goto(path)
            found += findings(page)
        sign_in(page)
        for path in ("/dead-letters", "/consistency", *MORE):
            page.goto(path)
            found += findings(page)
        page.emulate_media(color_scheme="dark")
        for path in ("/", "/documents", "/document?id=d1", MORE[1]):
            page.goto(path)
            found += findings(page, "color-contrast")
    assert found == []


def test_narrow_pages_need_no_sideways_scrolling(browser: Browser, url: str) -> None:
    with chromium.page(browser, url, viewport=NARROW, locale="zh-TW") as page:
        sign_in_in_chinese(page)
        for path in (*PAGES, *MORE):
            page.goto(path)
            assert overflow(page) <= 0, path
            assert page.locator("html").get_attribute("lang") == "zh-Hant"


def sign_in_in_chinese(page: Page) -> None:
    page.goto("/preferences?language=en&back=/")
    sign_in(page)
    page.get_by_role("link", name="繁體中文").click()


def test_operator_replays_discards_repairs_and_sends_again(browser: Browser, folder: Folder) -> None:
    with running(folder) as served, chromium.page(browser, served.url) as page:
        wait_until_applied(folder)
        sign_in(page)
        page.goto("/dead-letters")
        page.get_by_label("Choose letter 1").check()
        page.get_by_role("button", name="Replay chosen").click()
        page.get_by_role("button", name="Replay", exact=True).click()
        expect(page.get_by_role("status")).to_contain_text("Document d1 is sent again as version 2.")

        page.get_by_label("Choose letter 2").check()
        page.get_by_role("button", name="Discard chosen").click()
        page.get_by_label("Reason").fill("not wanted")
        page.get_by_role("button", name="Discard", exact=True).click()
        expect(page.get_by_text("No event was refused for good.")).to_be_visible()

        page.goto("/document?id=d1")
        page.get_by_role("button", name="Send again").click()
        page.wait_for_url("**/confirm?**")
        page.get_by_role("button", name="Send again").click()
        expect(page.get_by_role("status")).to_contain_text("is sent again as version 3.")
        expect(page.locator("#sinks .badge.applied")).to_have_count(2)  # refreshed, without a reload

        folder.change(TASK)
        page.reload()
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_text("extract: note.pdf: damaged")).to_be_visible()
        page.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("status")).to_contain_text("The task is queued again.")

        folder.change("UPDATE chunks SET milvus_synced = 0 WHERE doc_id = 'd2'")
        page.goto("/consistency")
        page.get_by_role("button", name="Start a check").click()
        expect(page.get_by_text("Differences: 1")).to_be_visible()
        page.goto("/consistency")
        page.get_by_role("link", name="See what a repair would do").click()
        expect(page.get_by_role("cell", name="refill in milvus")).to_be_visible()
        page.get_by_role("button", name="Repair").click()
        expect(page.get_by_role("status")).to_contain_text("Repaired in the database: refill milvus: 1.")

        page.get_by_role("link", name="Health").click()
        expect(page.get_by_role("cell", name="all lanes")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("link", name="Sign in")).to_be_visible()
    operators = folder.sql("SELECT DISTINCT operator FROM operation_logs WHERE operator LIKE '%(console)'")
    assert operators == [("operator-1 (console)",)]


def test_search_shows_the_document_beside_without_a_reload(browser: Browser, url: str) -> None:
    with chromium.page(browser, url) as page:
        page.goto("/search")
        page.get_by_label("Question").fill("who publishes events")
        page.keyboard.press("Enter")
        expect(page.locator(".hits h3").first).to_have_text("Handbook of relays")
        page.evaluate("document.body.dataset.kept = 'yes'")
        page.get_by_role("link", name="Show beside: Handbook of relays").click()
        expect(page.locator("#beside h2")).to_have_text("Handbook of relays")
        expect(page.locator("#beside")).to_be_focused()
        assert page.locator("body").get_attribute("data-kept") == "yes"
        assert "show=d1" in page.url


def test_health_shows_new_events_without_a_reload(browser: Browser, folder: Folder) -> None:
    with serving(folder) as served, chromium.page(browser, served.url) as page:
        page.goto("/")
        expect(page.locator("#chart-values")).to_contain_text("outbox 2")
        folder.change("DELETE FROM outbox WHERE aggregate_id = 'd2'")
        expect(page.locator("#chart-values")).to_contain_text("outbox 1")
        box = page.locator("svg.chart").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20)
        expect(page.locator("#chart-values")).to_contain_text(
            "PM:" if "PM" in page.locator("time").inner_text() else "AM:"
        )


def test_reading_works_without_scripts(browser: Browser, url: str) -> None:
    with chromium.page(browser, url, java_script_enabled=False) as page:
        for path in PAGES:
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 200
        page.goto("/")
        assert page.locator("svg.chart path").count() == 4
        page.goto("/documents")
        assert page.locator("time").first.inner_text().endswith(" UTC")
        page.get_by_label("Title begins with").fill("handbook")
        page.get_by_role("button", name="Apply").click()
        page.get_by_role("link", name="Handbook of relays").click()
        expect(page.get_by_text("Relays publish events in order.")).to_be_visible()
        page.goto("/search?q=relays")
        page.get_by_role("link", name="Show beside: Handbook of relays").click()
        expect(page.locator("#beside h2")).to_have_text("Handbook of relays")


def test_hostile_texts_run_nowhere(browser: Browser, url: str) -> None:
    with chromium.page(browser, url) as page:
        sign_in(page)
        for path in ("/documents", "/document?id=d2", "/search?q=x&show=d2", "/dead-letters", "/dead-letter?id=2"):
            page.goto(path)
            expect(page.get_by_text(HOSTILE).first).to_be_visible()
            assert "rag-outbox" in page.title()
            assert page.locator("main img").count() == 0


def test_form_of_another_site_does_nothing(browser: Browser, folder: Folder) -> None:
    """One of another host, whose request has no cookie, and one of another port, whose request has."""
    before = folder.sql("SELECT count(*) FROM operation_logs")
    with serving(folder) as served, chromium.page(browser, served.url, expected="403") as page:
        sign_in(page)
        form = (
            f'<form method="post" action="{served.url}document/resync"><input name="id" value="d1">'
            "<button>Win a prize</button></form>"
        )
        for site in ("http://evil.example/", "http://127.0.0.1:9/"):
            page.route(site, lambda route: route.fulfill(body=form, content_type="text/html"))
            page.goto(site)
            with page.expect_response("**/document/resync") as answer:
                page.get_by_role("button").click()
            assert answer.value.status == 403
            page.wait_for_load_state()
        page.goto("/")
        expect(page.get_by_text("Signed in as operator-1")).to_be_visible()
    assert folder.sql("SELECT count(*) FROM operation_logs") == before


def test_keyboard_reaches_the_content_first(browser: Browser, url: str) -> None:
    with chromium.page(browser, url) as page:
        page.goto("/documents")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_label("Id begins with")).to_be_focused()


def test_times_are_in_the_readers_zone_with_the_exact_value(browser: Browser, url: str) -> None:
    with chromium.page(browser, url) as page:
        page.goto("/documents?id=d1")
        shown = page.locator("td time").first
        assert shown.get_attribute("title") == "2026-01-31T20:15:00.500Z"
        assert shown.inner_text().replace("\u202f", " ") == "Feb 1, 2026, 4:15:00 AM"
        page.get_by_label("Changed since (Asia/Taipei)").fill("2026-02-01T04:15")
        page.get_by_role("button", name="Apply").click()
        page.wait_for_url("**since=2026-01-31T20%3A15**")
        expect(page.get_by_label("Changed since (Asia/Taipei)")).to_have_value("2026-02-01T04:15")
        expect(page.get_by_role("link", name="Handbook of relays")).to_be_visible()
