"""A test file without the marker of its folder fails the collection."""

import pytest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("marks", "found"),
    [([], "no marker"), (["integration"], "['integration']"), (["unit", "chaos"], "['chaos', 'unit']")],
)
def test_file_without_its_folders_marker_is_refused(pytester: pytest.Pytester, marks: list[str], found: str) -> None:
    result = collect(pytester, marks)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    file = pytester.path / "unit" / "test_it.py"
    expected = f"{file}: a test file in the folder unit carries {found}; set pytestmark = pytest.mark.unit"
    assert expected in result.outlines


def test_marker_of_the_folder_is_accepted(pytester: pytest.Pytester) -> None:
    assert collect(pytester, ["unit"]).ret == pytest.ExitCode.OK


def collect(pytester: pytest.Pytester, marks: list[str]) -> pytest.RunResult:
    folder = pytester.mkdir("unit")
    listed = ", ".join(f"pytest.mark.{mark}" for mark in marks)
    (folder / "test_it.py").write_text(f"import pytest\n\npytestmark = [{listed}]\n\n\ndef test_it():\n    pass\n")
    return pytester.runpytest_inprocess("-p", "tests.support.markers", "-p", "no:cacheprovider", "--collect-only")
