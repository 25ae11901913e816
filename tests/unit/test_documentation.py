"""What the documentation names exists: files, headings, settings, tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from operations.settings import PREFIX, Settings
from tests.support import documented_commands
from tests.support.documented_commands import Command, find_mistake
from tests.support.servers import ROOT

pytestmark = pytest.mark.unit

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
FOLDERS = [path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
README_LINES = 120


def named_paths(page: Path) -> Iterator[str]:
    """Paths in backticks that start with one of our folders; a command or a pattern is none."""
    for quoted in re.findall(r"`([^`\s*<>{}…]+)`", page.read_text()):
        if "/" in quoted and quoted.partition("/")[0] in FOLDERS:
            yield quoted


def links(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            yield target


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    assert [path for path in named_paths(page) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_setting_that_a_page_names_exists(page: Path) -> None:
    known = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields}
    free = tuple(f"{PREFIX}{prefix}_" for prefix in ("KAFKA", "SERVERS", "TEST"))
    named = re.findall(rf"\b{PREFIX}[A-Z_]+[A-Z]\b", page.read_text())
    assert [variable for variable in named if variable not in known and not variable.startswith(free)] == []


def test_every_log_line_of_the_services_has_a_meaning() -> None:
    folders = ("schema", "producer", "relays", "consumers", "operations")
    code = "".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    outages = re.findall(r'make_logged_outage\(_log, "([a-z_]+)", "([a-z_]+)"', code)
    logged = {*re.findall(r'_log\.\w+\(\s*"([a-z]+(?:_[a-z]+)+) ', code), *(line for both in outages for line in both)}
    assert {"lanes_assigned", "sink_failing", "sink_recovered"} < logged
    table = (ROOT / "docs" / "logs.md").read_text().partition("| log line |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", table)) == logged


def test_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_a_page_shows_is_one(page: Path) -> None:
    whole = [command for block in documented_commands.blocks(page) for command in block]
    mistakes = {str(command): find_mistake(command, is_whole=True) for command in whole}
    mistakes |= {str(one): find_mistake(one, is_whole=False) for one in documented_commands.inline(page)}
    assert {command: mistake for command, mistake in mistakes.items() if mistake} == {}


def test_commands_of_pages_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Run `rag-outbox sinks\nlist`, or `rag-outbox sinks …`.\n\n"
        "    rag-outbox list --state failed\n"
        "    rag-outbox reconcile --json | jq .kinds      # ends with 3\n\n"
        "1. Text\n\n       rag-outbox init && rag-outbox relay\n\n"
        "```sh\nrag-outbox search \"two words\" --json | jq '.hits[]'  # found\n```\n"
    )
    assert list(documented_commands.blocks(page)) == [
        [Command(("list", "--state", "failed")), Command(("reconcile", "--json"), 3, "kinds")],
        [Command(("init",))],
        [Command(("search", "two words", "--json"), 0, "hits")],
    ]
    assert list(documented_commands.inline(page)) == [Command(("sinks", "list"))]


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ("lists", "there is no command lists"),
        ("sinks grow", "there is no command grow"),
        ("sinks", "a subcommand is missing"),
        ("list --colour red", "No such option: --colour"),
        ("list more", "too many arguments: ['more']"),
        ("show", "missing: ['doc_id']"),
        ("show ID --json", None),
    ],
)
def test_mistake_in_a_command_is_named(arguments: str, mistake: str | None) -> None:
    assert find_mistake(Command(tuple(arguments.split())), is_whole=True) == mistake


def invariants(page: Path) -> dict[int, list[str]]:
    """The files that the table of guarantees names, by number."""
    rows = re.findall(r"^\| (\d+) \| \*\*.*$", page.read_text(), re.MULTILINE)
    lines = re.findall(r"^\| \d+ \| \*\*.*$", page.read_text(), re.MULTILINE)
    return {int(number): re.findall(r"`(tests/[\w/]+\.py)`", line) for number, line in zip(rows, lines, strict=True)}


def test_every_guarantee_has_tests_that_carry_its_number() -> None:
    named = invariants(ROOT / "docs" / "guarantees.md")
    assert list(named) == list(range(1, 14))
    assert [number for number, files in named.items() if not files] == []
    without = [
        (number, file)
        for number, files in named.items()
        for file in files
        if not re.search(rf"def test_invariant_(?:\d+_\w+_and_)?{number}_", (ROOT / file).read_text())
    ]
    assert without == []


def test_readme_and_guarantees_promise_the_same() -> None:
    titles = [
        re.findall(r"^\| (\d+) \| \*\*([^*]+?)\.?\*\*", (ROOT / page).read_text(), re.MULTILINE)
        for page in ("README.md", "docs/guarantees.md")
    ]
    assert [number for number, _ in titles[0]] == [str(number) for number in range(1, 14)]
    assert [title.split(",")[0] for _, title in titles[0]] == [title.split(",")[0] for _, title in titles[1]]
