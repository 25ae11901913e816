"""Which consumed events lack the mark of a sink."""

from typing import Any

import pytest

from consumers.marks import Known
from operations.lost_marks import _is_unmarked
from operations.topic import ReadEvent

pytestmark = pytest.mark.unit


def event(version: int, part: int = 1, history_id: str = "h") -> ReadEvent:
    return ReadEvent("a", 0, 0, version, part, history_id)


def known(**fields: Any) -> Known:
    """A document of version 3 of which the sink holds version 1."""
    values: dict[str, Any] = {
        "version": 3,
        "history_id": "h",
        "history_base": 0,
        "desired_version": 3,
        "applied_version": 1,
        "parts_version": 1,
        "parts_applied": 1,
        "refused_version": 0,
        "is_absent": False,
        "marks": 0,
        "reason": "",
        "lost_version": 0,
    }
    return Known(**values | fields)


@pytest.mark.parametrize("version", [2, 3])
def test_version_above_the_applied_one_lacks_its_mark(version: int) -> None:
    assert _is_unmarked(event(version), known())


@pytest.mark.parametrize("one", [event(1), event(4), event(3, history_id="another")])
def test_applied_and_lost_versions_lack_no_mark(one: ReadEvent) -> None:
    assert not _is_unmarked(one, known())


@pytest.mark.parametrize("fields", [{"is_absent": True}, {"refused_version": 3}])
def test_absent_and_refused_documents_lack_no_mark(fields: dict[str, Any]) -> None:
    assert not _is_unmarked(event(3), known(**fields))


@pytest.mark.parametrize(("part", "is_unmarked"), [(1, False), (2, False), (3, True)])
def test_only_parts_after_the_applied_ones_lack_their_mark(part: int, is_unmarked: bool) -> None:
    assert _is_unmarked(event(3, part), known(parts_version=3, parts_applied=2)) == is_unmarked


def test_version_that_a_newer_part_replaced_lacks_no_mark() -> None:
    assert not _is_unmarked(event(2), known(parts_version=3, parts_applied=1))


def test_parts_of_a_version_that_is_applied_lack_no_mark() -> None:
    assert not _is_unmarked(event(3, 2), known(applied_version=3, parts_version=3, parts_applied=1))
