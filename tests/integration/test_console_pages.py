"""The console's pages on SQLite, Milvus Lite and a directory: what they show, and that they change nothing."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine, insert, text

from consumers.refill import mark_all_absent
from operations.reconcile.reconcile import reconcile, scope_of
from operations.retention.purge import purge
from operations.web.console.live import Sampler
from producer.processing.embed.port import EmbedderUnavailable
from producer.processing.embed.prefixes import PrefixedEmbedder
from schema import archive
from schema.database.tables import document_files, operation_logs, processing_tasks, sinks
from schema.object_store.directory import DirectoryStore
from schema.sinks import MILVUS
from tests.support.console import Browser, ConsoleSystem, TestEmbedder, browsing, refuse, words
from tests.support.pipeline import Pipeline, document
from tests.support.refill import make_due, refill_of
from tests.support.written import tables

pytestmark = pytest.mark.integration

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{7*7}}"
PAGES = ("/", "/documents", "/search", "/dead-letters", "/consistency", "/sinks", "/sign-in")


@pytest.fixture
def system(pipeline: Pipeline, tmp_path: Path) -> ConsoleSystem:
    return ConsoleSystem.of(pipeline, tmp_path / "data")


@pytest.fixture
def browser(system: ConsoleSystem) -> Iterator[Browser]:
    with browsing(system) as one:
        yield one


@pytest.fixture
def bare(sqlite: Engine, store: DirectoryStore, tmp_path: Path) -> Iterator[Browser]:
    """A console of an empty system, without Milvus."""
    with browsing(ConsoleSystem(sqlite, store, tmp_path / "data")) as one:
        yield one


def test_pages_of_an_empty_system_are_shown_in_both_languages(bare: Browser) -> None:
    for path in PAGES:
        shown = bare.page(path)
        assert '<html lang="en"' in shown
        other = bare.get(path, **{"accept-language": "zh-TW,zh;q=0.9,en;q=0.5"}).text
        assert '<html lang="zh-Hant"' in other
        assert words(other) != words(shown)


def test_pages_change_nothing(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(document("d1", "text", file=b"x"))
    pipeline.run()
    letter = refuse(pipeline.engine, "d1")
    before = tables(pipeline.engine)
    browser.sign_in()
    more = ("/document?id=d1", f"/dead-letter?id={letter}", f"/dead-letters/confirm?action=replay&letter={letter}")
    for path in (*PAGES, *more, "/document/resync/confirm?id=d1", "/search?q=text&show=d1"):
        browser.page(path)
    assert tables(pipeline.engine) == before


def execute(browser: Browser, statement: str) -> None:
    with browser.console.system.engine.begin() as connection:
        connection.execute(text(statement))


def test_health_says_what_waits_and_what_needs_a_person(pipeline: Pipeline, system: ConsoleSystem) -> None:
    pipeline.upsert(document("d1", "text"))
    refuse(pipeline.engine, "d1")
    pipeline.execute("UPDATE outbox SET created_at = '2026-01-01 00:00:00'")
    pipeline.execute("UPDATE sink_states SET requested_at = '2026-01-01 00:00:00'")
    with browsing(system) as browser:
        shown = words(browser.page("/"))
    assert "conditions need attention" in shown
    assert "No event leaves the outbox. Waiting: 1, the oldest for" in shown
    assert "A document has waited for milvus for" in shown
    assert "Dead letters that need a person: 1." in shown
    assert "No “rag-outbox run” works on this data folder" in shown


def test_health_says_that_a_refill_lacks_something(pipeline: Pipeline, system: ConsoleSystem) -> None:
    """Its next attempt is in the future, so its age is 0."""
    pipeline.upsert(document("d1", "text"))
    pipeline.run()
    archive.remove(pipeline.store, "d1")
    mark_all_absent(pipeline.engine, MILVUS, "lost")
    for _ in range(4):
        make_due(pipeline)
        assert refill_of(pipeline, pipeline.milvus_sink).run_round() == 0
    with browsing(system) as browser:
        shown = words(browser.page("/"))
    assert "milvus lacks a document whose vectors or file the object store does not have" in shown
    assert "conditions need attention" in shown


def test_health_shows_the_task_queue(pipeline: Pipeline, system: ConsoleSystem) -> None:
    pipeline.upsert(document("d1", "text"))
    common = {"task_type": "embed", "doc_id": "d1", "available_at": datetime(2026, 1, 1)}
    rows = [
        common | {"task_id": f"{status}{number}", "status": status}
        for status, count in (("queued", 3), ("running", 2), ("failed", 1), ("superseded", 9))
        for number in range(count)
    ]
    with pipeline.engine.begin() as connection:
        connection.execute(insert(processing_tasks), rows)
    with browsing(system) as browser:
        page = browser.page("/")
    shown = words(page)
    assert re.search(r"tasks 5 [0-9.]+ d – 1 outbox 1", shown), "stage: waiting, oldest, rate, failed"
    assert "Tasks: queued 3 · running 2 · failed 1" in shown
    assert "The oldest queued task has waited for" in shown
    assert "Failed tasks: 1." in shown
    assert 'href="/documents?state=failed">Documents' in page
    assert "docs/processing.md" in shown
    assert "milvus 1, minio 1, tasks 5" in shown, "the newest values of the chart"


def test_health_of_a_system_in_step_is_current(pipeline: Pipeline, system: ConsoleSystem) -> None:
    pipeline.upsert(document("d1", "text"))
    pipeline.run()
    with browsing(system) as browser:
        assert words(browser.page("/")).startswith("Everything is current")


def test_health_survives_a_database_that_is_away(bare: Browser) -> None:
    execute(bare, "ALTER TABLE histories RENAME TO histories_away")
    bare.console.sampler.look()
    shown = words(bare.page("/"))
    assert "The metadata database does not answer: no such table: histories" in shown
    assert bare.get("/documents").status_code == 200


def test_store_that_fails_is_named_on_a_page_of_its_own(bare: Browser) -> None:
    execute(bare, "ALTER TABLE documents RENAME TO documents_away")
    answer = bare.get("/documents")
    assert answer.status_code == 503
    assert "metadata database: no such table: documents" in words(answer.text)


def test_documents_are_found_by_each_filter(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(
        document("a-1", "x", title="Handbook of relays", business_tag="hr"),
        document("a-2", "x", title="HANDBOOK of sinks", source_type="pdf"),
        document("b-1", "x", title="Notes", business_tag="hr"),
    )

    def found(**fields: str) -> set[str]:
        query = "&".join(f"{name}={quote(value)}" for name, value in fields.items())
        return set(re.findall(r'<span class="id muted">([^<]+)</span>', browser.page(f"/documents?{query}")))

    assert found() == {"a-1", "a-2", "b-1"}
    assert found(id="a-") == {"a-1", "a-2"}
    assert found(title="handbook") == {"a-1", "a-2"}
    assert found(title="Handbook of r") == {"a-1"}
    assert found(tag="hr") == {"a-1", "b-1"}
    assert found(tag="hr", id="b") == {"b-1"}
    assert found(type="pdf") == {"a-2"}
    assert found(state="completed") == set()
    assert found(since="2020-01-01T00:00") == {"a-1", "a-2", "b-1"}
    assert found(since="2999-01-01T00:00") == set()
    assert "No document matches" in browser.page("/documents?id=zz")


def test_pages_of_documents_show_each_document_once(browser: Browser, pipeline: Pipeline) -> None:
    ids = [f"d{number}" for number in range(7)]
    pipeline.upsert(*(document(doc_id, "x", business_tag="t") for doc_id in ids))
    for query in ("", "title=Title", "since=2020-01-01T00:00", "tag=t", "id=d", "title=title&tag=t&id=d"):
        seen: list[str] = []
        path = f"/documents?limit=3&{query}"
        while path:
            shown = browser.page(path)
            seen += re.findall(r'<span class="id muted">([^<]+)</span>', shown)
            links = re.findall(r'rel="next" href="([^"]+)"', shown)
            path = unescape(links[0]) if links else ""
        assert sorted(seen) == ids, query


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/documents?state=x", "state 'x': must be one of pending,"),
        ("/documents?since=yesterday", "since 'yesterday': give a time like"),
        ("/documents?limit=0", "limit: must be a whole number from 1 to 500"),
        ("/documents?title=a&after=b", "--after 'b'"),
        ("/documents?id=" + "x" * 2_000, "id: at most"),
        ("/documents?id=%00", "id: at most"),
        ("/dead-letters?stage=nowhere", "--stage 'nowhere'"),
        ("/dead-letters/confirm?action=replay", "letter: choose 1 to"),
        ("/search?q=x&type=y", "type 'y': must be one of"),
    ],
)
def test_wrong_field_is_named(bare: Browser, path: str, says: str) -> None:
    answer = bare.get(path)
    assert answer.status_code == 400
    assert says in words(answer.text)


def test_what_does_not_exist_is_not_found(bare: Browser) -> None:
    for path in ("/document?id=none", "/dead-letter?id=9", "/document/file?id=d&key=k", "/none", "/static/../app.py"):
        assert bare.get(path).status_code == 404, path


def test_story_of_a_document_has_everything(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(document("d1", "the first chunk", "the second", file=b"original bytes", domain="law"))
    pipeline.run()
    pipeline.upsert(document("d1", "the first chunk", "a new one", file=b"original bytes", domain="law"))
    refuse(pipeline.engine, "d1", "milvus said no")
    task = {"task_type": "embed", "doc_id": "d1", "status": "failed", "error_message": "no model", "attempt": 6}
    earlier = {"task_type": "extract", "doc_id": "d1", "status": "superseded", "created_at": datetime(2026, 1, 1)}
    with pipeline.engine.begin() as connection:
        connection.execute(insert(processing_tasks).values({"task_id": "t1", **task}))
        connection.execute(insert(processing_tasks).values({"task_id": "t0", **earlier}))
        connection.execute(insert(document_files), [file_row(kind) for kind in ("table", "image")])
    shown = words(browser.page("/document?id=d1"))
    for part in (
        *("Title of d1 pending", "Version 2", "the first chunk", "a new one", "law"),
        *("rag.document.upserted.v1", "milvus said no", "no model", "updated", "from version 1", "first version"),
        *("attempt 6", "rag-outbox tasks retry t1", "table application/json", "image application/json"),
    ):
        assert part in shown, part
    assert 0 < shown.index("embed failed") < shown.index("extract superseded"), "the newest first"


def file_row(kind: str) -> dict[str, Any]:
    facts = {"sha256": "0" * 64, "size_bytes": 1, "content_type": "application/json", "version": 1}
    return {"object_key": f"processed-data/{kind}", "doc_id": "d1", "kind": kind, **facts}


def test_file_is_a_download_and_never_a_page(browser: Browser, pipeline: Pipeline) -> None:
    content = b"<script>alert(1)</script>" * 100_000
    pipeline.upsert(document("d1", "x", file=b"<script>alert(1)</script>"))
    pipeline.run()
    [link] = re.findall(r'href="(/document/file[^"]+raw[^"]+)"', browser.page("/document?id=d1"))
    answer = browser.get(unescape(link))
    assert answer.content == b"<script>alert(1)</script>"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''d1.")
    assert answer.headers["x-content-type-options"] == "nosniff"
    [(key,)] = pipeline.sql("SELECT object_key FROM document_files WHERE kind = 'raw'")
    (pipeline.store.root / key).write_bytes(content)
    assert browser.get(unescape(link)).content == content
    pipeline.store.remove([key])
    assert browser.get(unescape(link)).status_code == 404


def test_file_of_another_document_is_not_found(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(document("d1", "x", file=b"one"), document("d2", "x", file=b"two"))
    pipeline.run()
    [(key,)] = pipeline.sql("SELECT object_key FROM document_files WHERE kind = 'raw' AND doc_id = 'd2'")
    assert browser.get(f"/document/file?id=d1&key={quote(key)}").status_code == 404
    assert browser.get("/document/file?id=d1&key=../metadata.db").status_code == 404


def test_hostile_texts_stay_text(browser: Browser, pipeline: Pipeline, system: ConsoleSystem) -> None:
    """In every place where a text of a document, a letter, a log or a request is shown."""
    doc_id = "<b>'\"&"
    fields = {"title": HOSTILE, "business_tag": "<i>\"'", "source_url": "javascript:alert(1)", "domain": "<u>"}
    pipeline.upsert(document(doc_id, HOSTILE, file=b"x", **fields))
    pipeline.run()
    letter = refuse(pipeline.engine, doc_id, HOSTILE)
    log = {"operation_type": "UPDATE", "target_table": "documents", "target_id": doc_id, "operator": "<s>"}
    with pipeline.engine.begin() as connection:
        connection.execute(insert(operation_logs).values(log))
        task = {"task_id": "t", "task_type": "extract", "doc_id": doc_id, "status": "failed", "error_message": HOSTILE}
        connection.execute(insert(processing_tasks).values(task))
    browser.sign_in("<em>'\"")
    shown = quote(doc_id)
    for path in (
        *("/documents", f"/document?id={shown}", "/dead-letters", f"/dead-letter?id={letter}"),
        *(f"/dead-letters/confirm?action=discard&letter={letter}", f"/document/resync/confirm?id={shown}"),
        f"/document/task/confirm?id={shown}&task=t",
        *(
            f"/search?q={quote(HOSTILE)}&show={shown}",
            f"/documents?id={quote(HOSTILE)}",
            f"/dead-letters?reason={shown}",
        ),
    ):
        page = browser.page(path)
        for tag in ("<script>alert", "<img", "<b>", "<i>", "<u>", "<s>", "<em>", 'href="javascript:'):
            assert tag not in page, (path, tag)
    assert HOSTILE in words(browser.page(f"/document?id={shown}"))


def test_search_shows_hits_with_the_document_beside(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(document("d1", "how relays work", business_tag="a"), document("d2", "how sinks work"))
    pipeline.run()
    hits = browser.page("/search?q=how+relays+work&show=d1")
    assert re.findall(r"<h3><a[^>]*>([^<]+)", hits)[0] == "Title of d1"
    assert "Score 1.000" in words(hits)
    assert "Open the document" in hits
    filtered = browser.page("/search?q=how+relays+work&tag=a")
    assert re.findall(r"<h3><a[^>]*>([^<]+)", filtered) == ["Title of d1"]
    assert "Nothing found" in browser.page("/search?q=x&tag=none")


class FailingEmbedder(TestEmbedder):
    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        raise EmbedderUnavailable("the embedder does not answer: connection refused")


def test_search_asks_as_the_search_command_does(pipeline: Pipeline, system: ConsoleSystem) -> None:
    """A question may have another prefix than a passage, and the embedder may be away."""
    pipeline.upsert(document("d1", "how relays work"), document("d2", "how sinks work"))
    pipeline.run()
    vars(system)["embedder"] = PrefixedEmbedder(TestEmbedder(), query="how ")  # type: ignore[arg-type]
    with browsing(system) as browser:
        assert "Score 1.000" in words(browser.page("/search?q=relays+work"))
    vars(system)["embedder"] = FailingEmbedder()
    with browsing(system) as browser:
        shown = words(browser.page("/search?q=relays+work"))
    assert "This console cannot search the embedder does not answer: connection refused" in shown


def test_purged_document_can_be_opened(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(document("d1", "text", file=b"x"))
    pipeline.run()
    pipeline.delete("d1")
    pipeline.run()
    with pipeline.engine.begin() as connection:
        assert purge(connection, ["d1"]) == ["d1"]
    assert '<a href="/document?id=d1">(purged)</a>' in browser.page("/documents?state=deleted")
    shown = words(browser.page("/document?id=d1"))
    assert shown.startswith("(purged) It was deleted, and its title, labels, chunks and files are removed.")


def test_sinks_show_their_states(browser: Browser, pipeline: Pipeline) -> None:
    pipeline.upsert(document("d1", "x"), document("d2", "x"))
    pipeline.run()
    pipeline.execute("UPDATE sink_states SET state = 'absent' WHERE doc_id = 'd2' AND sink = 'milvus'")
    shown = words(browser.page("/sinks"))
    assert "milvus Yes active Searches use it. 50.0 % of 2 1 0 1 0" in shown
    assert "minio Yes active 100.0 % of 2 2 0 0 0" in shown


def test_second_instance_of_milvus_is_shown_with_its_role(pipeline: Pipeline, system: ConsoleSystem) -> None:
    """While it joins, its documents wait from the start: that is no alarm."""
    pipeline.upsert(document("d1", "x"))
    pipeline.run()
    optional = {"required": False, "takes_vectors": True, "takes_files": False}
    with pipeline.engine.begin() as connection:
        connection.execute(insert(sinks), {"name": "milvus-2", "state": "joining", **optional})
    pipeline.execute(
        "INSERT INTO sink_states (doc_id, sink, desired_version, state, requested_at)"
        " VALUES ('d1', 'milvus-2', 1, 'absent', '2026-01-01')"
    )
    with browsing(system) as browser:
        health, shown = words(browser.page("/")), words(browser.page("/sinks"))
    assert health.startswith("Everything is current")
    assert "milvus-2 is being filled, and no search or download needs it yet. Documents to go: 1." in health
    assert "milvus-2 No joining It is being filled" in shown
    pipeline.execute("UPDATE sinks SET state = 'active' WHERE name = 'milvus-2'")
    pipeline.execute("UPDATE sink_states SET state = 'failed' WHERE sink = 'milvus-2'")
    with browsing(system) as browser:
        shown = words(browser.page("/sinks"))
    assert "milvus-2 No active No search uses it. It stays current, for a rollback," in shown


def test_consistency_says_when_the_last_check_ended(pipeline: Pipeline, system: ConsoleSystem) -> None:
    pipeline.upsert(document("d1", "x"))
    pipeline.run()
    reconcile(system, scope_of(system))
    pipeline.execute("UPDATE reconcile_reports SET ended_at = '2026-01-31 20:15:00'")
    with browsing(system) as browser:
        assert "No differences Ended 2026-01-31 20:15:00 UTC" in words(browser.page("/consistency"))


def test_rates_come_from_the_log_and_the_backlog(pipeline: Pipeline, system: ConsoleSystem) -> None:
    sampler = Sampler(system)
    sampler.look()
    pipeline.upsert(*(document(f"d{number}", "x") for number in range(10)))
    sampler.look()
    [first, second] = sampler.samples
    seconds = second.at - first.at
    rates = sampler.rates()
    assert rates.written == pytest.approx(10 / seconds)
    assert rates.done == {"outbox": 0.0, "milvus": 0.0, "minio": 0.0}
    pipeline.run()
    sampler.look()
    done = sampler.rates().done
    assert done["outbox"] == pytest.approx(10 / (sampler.samples[-1].at - first.at))


def test_reader_may_choose_language_and_colours(bare: Browser) -> None:
    assert '<html lang="zh-Hant"' in bare.page("/preferences?language=zh-Hant&back=/sinks")
    assert 'data-theme="dark"' in bare.page("/preferences?theme=dark&back=/sinks")
    assert '<html lang="zh-Hant" data-theme="dark"' in bare.page("/")
    assert '<html lang="zh-Hant" data-theme="dark"' in bare.page("/preferences?theme=x&language=y&back=/")
