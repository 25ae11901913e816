"""The lines of `rag-outbox history check` for a person."""

import pytest

from operations.cli.history import describe_found

pytestmark = pytest.mark.unit


def test_check_that_finds_nothing_says_so() -> None:
    assert describe_found(1, 0, []) == ["Read 1 event. None belongs to a lost history."]


def test_check_names_the_first_twenty_documents() -> None:
    assert describe_found(38, 1, ["a"]) == [
        "Read 38 events. 1 belongs to a lost history; 1 document will be replaced in every sink:",
        "    a",
    ]
    ids = [f"{number:02}" for number in range(23)]
    lines = describe_found(38, 30, ids)
    assert lines[0] == "Read 38 events. 30 belong to lost histories; 23 documents will be replaced in every sink:"
    assert lines[1:] == [*(f"    {one}" for one in ids[:20]), "    and 3 more; --json names all"]
