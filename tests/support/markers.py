"""What markers mean; a plugin of the root conftest.

Every test file carries the marker of its folder, and no other folder's. Otherwise `pytest -m unit` would run tests that
need servers, or skip tests that need none. Tests with the marker `both_databases` run on SQLite and on MySQL.
"""

from collections.abc import Generator

import pytest

KINDS = frozenset({"unit", "integration", "acceptance", "chaos", "simulation"})


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail the collection of a file with other markers. A UsageError would only crash the workers of pytest-xdist."""
    report = yield
    if isinstance(collector, pytest.Module) and report.passed:
        folder = collector.path.parent.name
        found = KINDS & {marker.name for marker in collector.iter_markers()}
        if found != {folder}:
            report.outcome = "failed"
            report.longrepr = (
                f"{collector.path}: a test file in the folder {folder} carries {sorted(found) or 'no marker'}; "
                f"set pytestmark = pytest.mark.{folder}"
            )
    return report


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with the marker `both_databases` once per database, if it uses the fixture `engine`."""
    if "engine" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_databases"):
        metafunc.parametrize("engine", ["sqlite", "mysql"], indirect=True)
