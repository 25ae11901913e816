"""Refill and the original files of a document: those that no row names any more are removed."""

import pytest
from sqlalchemy import select

from consumers.refill import mark_all_absent
from consumers.sink import Change
from schema.database.tables import documents
from schema.events.events import decode
from schema.object_store import layout
from schema.sinks import MINIO
from tests.contracts.object_store import put
from tests.support.pipeline import Pipeline, document
from tests.support.refill import refill_of

pytestmark = pytest.mark.integration


def test_refill_removes_an_original_that_a_late_consumer_copied_again(pipeline: Pipeline) -> None:
    """A late consumer copied it again, when its row was confirmed and gone."""
    pipeline.upsert(document("a", "one", file=b"first"))
    late = pipeline.pending()
    pipeline.run()
    pipeline.delete("a")
    pipeline.run()
    change = Change("a", 1, tuple(decode(envelope) for envelope in late))
    pipeline.minio_sink.apply([change])
    assert b"first" in pipeline.objects().values()
    mark_all_absent(pipeline.engine, MINIO, "late")
    assert refill_of(pipeline, pipeline.minio_sink).run_round() == 1
    pipeline.assert_in_step()
    assert pipeline.objects() == {}


@pytest.mark.parametrize("is_deleted", [False, True])
def test_refill_removes_the_original_of_a_lost_version(pipeline: Pipeline, is_deleted: bool) -> None:
    pipeline.upsert(document("a", "one"), document("ab", "two", file=b"kept"))
    pipeline.run()
    with pipeline.engine.connect() as connection:
        created_at = connection.execute(select(documents.c.created_at).where(documents.c.doc_id == "a")).scalar_one()
    for source_type, extension in (("text", "md"), ("pdf", "pdf")):
        put(pipeline.store, layout.raw_file_key("a", source_type, created_at, extension), b"lost")
    if is_deleted:
        pipeline.delete("a")
        pipeline.run()
    mark_all_absent(pipeline.engine, MINIO, "lost")
    assert refill_of(pipeline, pipeline.minio_sink).run_round() == 2
    pipeline.assert_in_step()
