"""On MySQL with 100,000 documents, no statement of a refill reads a whole table or index."""

import pytest
from sqlalchemy import Engine, text

from consumers.refill import Refill, mark_all_absent
from tests.integration.test_marks_use_indexes import FILL, SMALL, plan, recorded
from tests.support.pipeline import MARKS, Pipeline, document

pytestmark = pytest.mark.integration


@pytest.fixture
def engine(mysql: Engine) -> Engine:
    """The fixture `pipeline` on MySQL."""
    return mysql


def test_statements_of_a_refill_use_keys(pipeline: Pipeline) -> None:
    pipeline.upsert(*(document(f"d{number}", "kept", "gone", file=b"x") for number in range(50)))
    pipeline.run()
    for name in MARKS:
        mark_all_absent(pipeline.engine, name, "lost")
    with pipeline.engine.begin() as connection:
        for statement in FILL:
            connection.execute(text(statement.replace("%%", "%")))
    with recorded(pipeline.engine) as sent:
        for sink in (pipeline.milvus_sink, pipeline.minio_sink):
            one = Refill(pipeline.engine, sink, MARKS[sink.name], pipeline.store)
            assert one.run_round(set(range(16))) == 50
        mark_all_absent(pipeline.engine, "none", "lost")
    explained = [(statement, plan(pipeline.engine, statement, parameters)) for statement, parameters in sent]
    assert len([one for one in explained if one[1]]) > 20
    for statement, rows in explained:
        for row in rows:
            if row["table"] not in SMALL | {"system_identity"} and not (row["table"] or "<").startswith("<"):
                assert row["type"] not in ("ALL", "index"), (statement, row)
