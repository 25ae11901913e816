"""A headless Chromium, from the cache of the native servers, driven by Playwright."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from compose.native.cache import Cache
from compose.native.chromium import NAME, Chromium
from tests.support.console import TOKEN
from tests.support.servers import native

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
ZONE = "Asia/Taipei"
_SERIOUS = ("serious", "critical")


def program() -> str:
    """The path of Chromium. If it cannot be fetched, fails under CI, else skips."""
    chromium = Chromium(Cache.of_this_user())
    if not chromium.program.exists():
        fetched = native("fetch", "--only", NAME)
        if fetched.returncode != 0:
            pytest.fail(fetched.stderr) if os.environ.get("CI") == "true" else pytest.skip(fetched.stderr)
    return str(chromium.program)


@contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """Without its sandbox, which needs rights that a container may not give: it opens our own pages only."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def page(browser: Browser, url: str, *, expected: str | None = None, **options: Any) -> Iterator[Page]:
    """A page of a new reader; an error of a script, or one that the policy of contents reports, fails the test.

    A message of the browser with the text `expected` is no problem.
    """
    given = {"viewport": WIDE, "timezone_id": ZONE, "locale": "en-US", "base_url": url} | options
    context = browser.new_context(**given)
    context.set_default_timeout(60_000)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("dialog", lambda dialog: problems.append(f"a dialog: {dialog.message}"))
    try:
        yield opened
    finally:
        context.close()
    assert [one for one in problems if expected is None or expected not in one] == []


def sign_in(page: Page, operator: str = "operator-1") -> None:
    page.goto("/sign-in")
    page.get_by_label("Your name").fill(operator)
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text(f"Signed in as {operator}").wait_for()


def findings(page: Page, *rules: str) -> list[str]:
    """What axe-core finds on the page that is serious; all its rules, or these."""
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text())
    only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
    found = page.evaluate("options => axe.run(document, options)", only)
    return [
        f"{page.url}: {one['id']}: {node['html']}"
        for one in found["violations"]
        if one["impact"] in _SERIOUS
        for node in one["nodes"]
    ]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))
