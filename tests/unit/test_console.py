"""Pure parts of the console: hosts, origins, sessions, texts, the chart, and conditions."""

import json
import re
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from operations.backup.newest import NewestBackup
from operations.monitoring.backlog import Backlog, GroupBacklog, SinkBacklog
from operations.reconcile.difference import KINDS
from operations.settings import Settings
from operations.web.console import access, chart, conditions, processes, sessions, texts
from operations.web.console.live import Sample, Sampler, rates_of
from operations.web.console.rendering import format_age
from operations.wiring import System
from schema.database.tables import (
    DOCUMENT_STATES,
    FILE_KINDS,
    LETTER_STATES,
    SINK_ROLES,
    SINK_STATES,
    SOURCE_TYPES,
    TASK_STATES,
    TASK_TYPES,
)
from schema.failures import Retryable
from tests.support.waiting import wait_for

pytestmark = pytest.mark.unit

FOLDER = Path(texts.__file__).parents[1]


def backlog(pending: int = 0, age: float = 0.0, waiting: int = 0, failed: int = 0) -> Backlog:
    of_sink = SinkBacklog({"pending": waiting, "absent": 0, "failed": failed}, age)
    return Backlog(pending, 0, age, {"failed": failed}, {"milvus": of_sink}, {"relay": 0}, 0, {}, 0.0, 0, None)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        *(("127.0.0.1", True), ("127.0.0.53", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("console.example", False), ("", False)),
    ],
)
def test_loopback_addresses_are_recognised(host: str, is_local: bool) -> None:
    assert access.is_loopback(host) is is_local


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("http://127.0.0.1:9480", "127.0.0.1:9480", True),
        ("https://console.example", "console.example", True),
        ("http://127.0.0.1:9481", "127.0.0.1:9480", False),
        ("http://localhost:9480", "127.0.0.1:9480", False),
        ("http://127.0.0.1:9480.evil.example", "127.0.0.1:9480", False),
        *(("null", "127.0.0.1:9480", False), (None, "127.0.0.1:9480", False), ("", "", False)),
        *(("file://", "", False), ("ftp://127.0.0.1:9480", "127.0.0.1:9480", False)),
    ],
)
def test_forms_of_other_origins_are_recognised(origin: str | None, host: str, same: bool) -> None:
    assert access.is_same_origin(origin, host) is same


def test_new_token_signs_in_and_its_form_tokens_differ() -> None:
    token, digest = sessions.make_token()
    made = sessions.Sessions(digest)
    first, second = made.sign_in(token, "a"), made.sign_in(token, "b")
    assert first is not None
    assert second is not None
    assert made.find(first.key) is first
    assert len({one.form_token(path) for one in (first, second) for path in ("/x", "/y")}) == 4
    assert first.accepts("/x", first.form_token("/x"))
    assert not first.accepts("/x", first.form_token("/y"))
    assert not first.accepts("/x", second.form_token("/x"))
    assert first.secret.hex() not in repr(first)


def test_session_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    token, digest = sessions.make_token()
    made = sessions.Sessions(digest)
    session = made.sign_in(token, "a")
    assert session is not None
    later = time.monotonic() + 12 * 3_600 + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert made.find(session.key) is None


def test_oldest_session_ends_when_there_are_many() -> None:
    token, digest = sessions.make_token()
    made = sessions.Sessions(digest)
    found = [made.sign_in(token, "a") for _ in range(201)]
    assert found[0] is not None
    assert found[-1] is not None
    assert made.find(found[0].key) is None
    assert made.find(found[-1].key) is found[-1]


def test_languages_have_the_same_texts_with_the_same_values() -> None:
    known = texts.languages()
    assert list(known) == ["en", "zh-Hant"]
    english = known["en"].by_key
    for one in known.values():
        assert one.by_key.keys() == english.keys()
        for key, text in one.by_key.items():
            assert texts.placeholders(text) == texts.placeholders(english[key]), (one.language, key)


def test_every_text_that_a_page_uses_exists_and_is_used() -> None:
    english = texts.languages()["en"].by_key
    source = "".join(path.read_text() for path in FOLDER.rglob("*") if path.suffix in (".html", ".py"))
    used = set(re.findall(r"""(?:\bt|words)\(\s*["']([a-z_]+(?:\.\w*[a-zA-Z])+)["']""", source))
    assert used - english.keys() == set()
    prefixes = tuple(set(re.findall(r"""["']([a-z_]+\.(?:[a-z]+_)?)["'] ~""", source)) | {"state.", "type.", "error."})
    built = ("difference.", "unit.", *prefixes)
    assert [key for key in english if not key.startswith(built) and key not in source] == []


def test_every_value_of_an_enumeration_has_a_text() -> None:
    """A page that names one without a text would fail for every document that has it."""
    english = texts.languages()["en"].by_key
    states = (*DOCUMENT_STATES, "deleted", *SINK_STATES, *SINK_ROLES, *LETTER_STATES, *TASK_STATES)
    wanted = {
        "state.": states,
        "type.": SOURCE_TYPES,
        "document.kind_": FILE_KINDS,
        "operation.": ("INSERT", "UPDATE", "DELETE", "SYNC"),
        "difference.": KINDS,
        "task.": TASK_TYPES,
    }
    named = {f"{prefix}{one}" for prefix, values in wanted.items() for one in values}
    assert named - english.keys() == set()


@pytest.mark.parametrize(
    ("wanted", "accepted", "language"),
    [
        (None, "", "en"),
        (None, "zh-TW,zh;q=0.9,en;q=0.8", "zh-Hant"),
        (None, "zh-HK", "zh-Hant"),
        (None, "zh-Hant-TW,en;q=0.5", "zh-Hant"),
        (None, "zh-Hans-CN", "en"),
        (None, "de-AT, en-GB;q=0.9", "en"),
        ("zh-Hant", "en", "zh-Hant"),
        ("../x", "*", "en"),
    ],
)
def test_language_is_the_readers(wanted: str | None, accepted: str, language: str) -> None:
    assert texts.choose(wanted, accepted).language == language


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0, "0 s"), (0.25, "0.2 s"), (59.6, "60 s"), (90, "1.5 min"), (7_200, "2.0 h"), (864_000, "10 d")],
)
def test_age_is_told_in_the_largest_unit(seconds: float | None, text: str) -> None:
    assert format_age(texts.languages()["en"], seconds) == text


def test_chart_has_a_gap_where_the_database_was_away() -> None:
    samples = [Sample(100.0 * at, backlog(pending=at) if at != 3 else None) for at in range(6)]
    drawn = chart.draw(samples)
    outbox = drawn.lines[0]
    assert (outbox.name, outbox.last, outbox.path.count("M"), outbox.path.count("L")) == ("outbox", 5, 2, 3)
    assert outbox.path.endswith("900.0 50.0"), "now, and 5 of 10"
    assert [point[0] for point in json.loads(drawn.points)] == [500, 400, 300, 200, 100, 0]
    assert chart.draw([]).lines == []


@pytest.mark.parametrize(
    ("most", "top"), [(0, 10), (10, 10), (11, 20), (51, 60), (240, 300), (801, 1_000), (100_001, 200_000)]
)
def test_scale_of_the_chart_fits_the_highest_value(most: int, top: int) -> None:
    assert chart.draw([Sample(0.0, backlog(pending=most))]).ticks[-1] == f"{top:,}"


def test_rates_are_averages_of_the_last_minute() -> None:
    looks = [(0.0, 0, 0), (100.0, 500, 10), (130.0, 560, 40), (160.0, 700, 0)]
    samples = [Sample(at, backlog(pending=pending), operations) for at, operations, pending in looks]
    rates = rates_of(samples)
    assert rates.written == pytest.approx(200 / 60)
    assert rates.done["outbox"] == pytest.approx(210 / 60)
    assert rates_of(samples[:1]).written is None


class Looked(Sampler):
    """What a sampler knows after its looks."""

    def __init__(self, *samples: Sample, groups: dict[str, GroupBacklog] | None = None) -> None:
        self._samples = list(samples)  # type: ignore[assignment]
        self._kafka = None
        self.groups = groups
        self.kafka_problem = None
        self.report = {"differences": 2}


def levels(sampler: Sampler) -> dict[str, str]:
    return {one.name: one.level for one in conditions.judge(sampler)}


def test_backlog_that_shrinks_is_no_alarm_however_old() -> None:
    old = [Sample(at, backlog(pending=pending, age=400.0), 0) for at, pending in ((0.0, 90), (10.0, 40))]
    assert levels(Looked(*old))["publishing"] == "ok"
    still = [Sample(at, backlog(pending=90, age=400.0), 0) for at in (0.0, 10.0)]
    assert levels(Looked(*still))["publishing"] == "critical"
    assert levels(Looked(*still))["sink_age"] == "warning"
    assert conditions.judge(Looked(*still))[-1].level == "ok", "the most urgent first"


def test_tasks_are_judged_only_where_the_queue_is_used() -> None:
    def found(age: float, **tasks: int) -> dict[str, str]:
        sample = Sample(time.time(), replace(backlog(), tasks=tasks, oldest_task_age_seconds=age))
        return {name: level for name, level in levels(Looked(sample)).items() if "tasks" in name}

    assert found(0.0, queued=0, running=0, failed=0) == {}
    assert found(1.0, queued=1) == {"tasks": "ok", "failed_tasks": "ok"}
    assert found(301.0, queued=1, failed=2) == {"tasks": "warning", "failed_tasks": "warning"}


def test_backups_are_judged_where_one_was_begun() -> None:
    def found(**backups: NewestBackup) -> dict[str, str]:
        sample = Sample(time.time(), replace(backlog(), backups=backups))
        return {name: level for name, level in levels(Looked(sample)).items() if "backup" in name}

    def aged(hours: float, made_at: datetime | None = datetime(2026, 1, 31)) -> NewestBackup:
        return NewestBackup(made_at, hours * 3_600, 1, 1.0)

    assert found() == {}
    assert found(bucket=aged(29), copy=aged(31)) == {"backup_bucket": "ok", "backup_copy": "warning"}
    assert found(copy=aged(1, None)) == {"backup_unended": "ok"}
    assert found(copy=aged(31, None)) == {"backup_unended": "warning"}


def test_old_numbers_are_no_good_news() -> None:
    now = time.time()
    assert "stale" not in levels(Looked(Sample(now, backlog())))
    hanging = conditions.judge(Looked(Sample(now - 30, backlog())))
    assert (hanging[0].name, hanging[0].level) == ("stale", "critical")


def test_conditions_of_groups_and_reports_are_judged() -> None:
    groups = {
        "rag.relays": GroupBacklog({}, 1, 3, {"a": [0, 1, 2, 5]}),
        "rag.milvus": GroupBacklog({("t", 0): 20_001}, 1, 0, {"b": [], "c": [7]}),
    }
    found = levels(Looked(Sample(0.0, backlog()), groups=groups))
    assert (found["lanes"], found["partitions"], found["lag"]) == ("critical", "ok", "warning")
    assert found["differences"] == "warning"
    assert [(one.kind, one.parts) for one in processes.of_groups(groups)] == [
        ("relay", "0–2, 5"),
        ("consumer", ""),
        ("consumer", "7"),
    ]


class AwayKafka:
    def read(self) -> dict[str, GroupBacklog]:
        raise Retryable("Kafka: no answer\nmore")


def test_kafka_that_is_away_is_named_and_known_groups_are_forgotten(sqlite: Engine, tmp_path: Path) -> None:
    sampler = Sampler(System(Settings(data_dir=tmp_path), sqlite), AwayKafka())  # type: ignore[arg-type]
    vars(sampler)["groups"] = {"rag.relays": GroupBacklog({}, 1, 0)}
    sampler.look()
    sampler.look_at_kafka()
    assert (sampler.groups, sampler.kafka_problem) == (None, "Kafka: no answer")
    [worst, *_] = conditions.judge(sampler)
    assert (worst.name, worst.level, worst.values) == ("kafka", "critical", {"reason": "Kafka: no answer"})


def test_sampler_goes_on_after_a_look_that_failed(sqlite: Engine, tmp_path: Path) -> None:
    """The names of the groups come from the database, which may be away; anything else would be a bug."""
    looks: list[int] = []

    class Failing:
        def read(self) -> dict[str, GroupBacklog]:
            looks.append(len(looks))
            if len(looks) == 1:
                raise OperationalError("SELECT", {}, Exception("gone"))
            if len(looks) == 2:
                raise KeyError("group")
            return {"rag.relays": GroupBacklog({}, len(looks), 0)}

    kafka: Any = Failing()
    sampler = Sampler(System(Settings(data_dir=tmp_path), sqlite), kafka, seconds=0.01)
    sampler.start()
    try:
        wait_for(lambda: sampler.groups is not None, "a look at Kafka")
    finally:
        sampler.stop()
    assert sampler.kafka_problem is None


def test_run_that_is_dead_is_not_shown(tmp_path: Path) -> None:
    assert processes.of_folder(tmp_path) == []
    for written in ("{", "{}", "[]", '{"pid": 4194304999, "since": "x"}', '{"pid": 99999999, "since": "x"}'):
        (tmp_path / "run.json").write_text(written)
        assert processes.of_folder(tmp_path) == [], written
