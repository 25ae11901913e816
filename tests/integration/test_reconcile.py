"""Reconcile finds and names every kind of damage, on the stores of the embedded profile and on real servers."""

import pytest
from tests.support.pipeline import Pipeline, document
from tests.support.reconciled import found, reconciled

pytestmark = pytest.mark.integration


def test_stores_in_step_have_no_differences(pipeline: Pipeline) -> None:
    pipeline.upsert(*(document(f"d{number}", "one", "two", "three", file=b"x") for number in range(30)))
    pipeline.run()
    pipeline.upsert(document("d1", "one", "other", business_tag="hr", file=b"y"), document("d2", "one"))
    pipeline.delete("d3")
    pipeline.run()
    report = reconciled(pipeline)
    assert (report.is_healthy, found(report)) == (True, set())
    assert report.findings.waiting == {}
    assert report.findings.compared == {"mysql": 30, "milvus": 84, "minio": 59, "vectors": 84}
