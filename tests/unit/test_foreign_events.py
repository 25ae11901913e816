"""Events of other systems: recognised by their source, and logged with a bound."""

import logging

import pytest

from consumers.foreign_events import ForeignEvents
from consumers.subscription import Headers, Message

pytestmark = pytest.mark.unit


def message(*headers: tuple[str, str | bytes | None]) -> Message:
    return Message(("rag.documents", 0), 0, b"d", b"", headers)


@pytest.mark.parametrize(
    ("headers", "is_foreign"),
    [
        ([("ce_source", b"rag-outbox/a")], False),
        ([("ce_source", "rag-outbox/a")], False),
        ([("ce_source", b"rag-outbox/b")], True),
        ([("ce_source", b"\xff")], True),
        ([("ce_source", None)], True),
        ([("ce_id", b"1")], False),
        ([], False),
    ],
)
def test_event_with_another_source_is_foreign(headers: Headers, is_foreign: bool) -> None:
    events = ForeignEvents("rag-outbox/a")
    assert events.skip(message(*headers)) is is_foreign
    assert events.count == int(is_foreign)


def test_foreign_events_are_logged_once_per_minute(caplog: pytest.LogCaptureFixture) -> None:
    now = 1_000.0
    events = ForeignEvents("rag-outbox/a", clock=lambda: now)

    def logged(count: int) -> list[int]:
        with caplog.at_level(logging.WARNING):
            for _ in range(count):
                events.skip(message(("ce_source", b"rag-outbox/b")))
        lines = [record.getMessage() for record in caplog.records]
        caplog.clear()
        assert all(line.endswith("source=rag-outbox/b own=rag-outbox/a") for line in lines)
        return [int(line.split("count=")[1].split()[0]) for line in lines]

    assert logged(100) == [1]
    now += 59
    assert logged(100) == []
    now += 1
    assert logged(100) == [201]
    with caplog.at_level(logging.WARNING):
        events.report()
        events.report()
    assert [record.getMessage().split()[1] for record in caplog.records] == ["count=300"]
