"""What the documentation names exists: files, headings, settings, tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from operations.settings import PREFIX, Settings
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
    logged = set(re.findall(r'_log\.\w+\(\s*"([a-z]+(?:_[a-z]+)+) ', code))
    assert {"lanes_assigned", "sink_failing"} < logged
    table = (ROOT / "docs" / "logs.md").read_text().partition("| log line |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", table)) == logged


def test_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_every_guarantee_of_the_readme_has_a_test() -> None:
    promised = re.findall(r"`(test_invariant_\d+_)\*`", (ROOT / "README.md").read_text())
    assert promised == [f"test_invariant_{number}_" for number in range(1, 14)]
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [prefix for prefix in promised if f"def {prefix}" not in tests] == []
