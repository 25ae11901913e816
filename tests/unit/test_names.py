"""Names that follow from the namespace and the system id."""

import pytest

from schema.collection import ALIAS, alias_of
from schema.kafka.names import Names
from schema.object_store.layout import bucket_of
from tests.support.pipeline import SYSTEM_ID

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("namespace", "alias", "bucket"),
    [
        ("rag", "rag_vectors", "rag-knowledge-base"),
        ("team-a", "team_a_vectors", "team-a-knowledge-base"),
        ("Team_A", "Team_A_vectors", "team-a-knowledge-base"),
        ("7", "_7_vectors", "7-knowledge-base"),
    ],
)
def test_namespace_names_collection_and_bucket(namespace: str, alias: str, bucket: str) -> None:
    assert (alias_of(namespace), bucket_of(namespace)) == (alias, bucket)
    assert alias_of("rag") == ALIAS


def test_groups_and_source_contain_the_system_id() -> None:
    names = Names("rag", SYSTEM_ID)
    assert names.relays_group == f"rag-{SYSTEM_ID}-relays"
    assert names.sink_group("milvus") == f"rag-{SYSTEM_ID}-milvus"
    assert names.source == f"rag-outbox/{SYSTEM_ID}"
    assert names.documents_topic == "rag.documents"
