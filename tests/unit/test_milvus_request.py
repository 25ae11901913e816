"""Our upsert request compared with the request that pymilvus makes of the same rows."""

import numpy as np
import pytest
from pymilvus import DataType
from pymilvus.client.prepare import Prepare

from consumers.milvus import upsert as milvus_upsert
from consumers.milvus.rows import Row
from schema import collection

pytestmark = pytest.mark.unit

DIMENSION = 300  # large enough for a length of two bytes


def described(*, with_sparse: bool) -> list[dict[str, object]]:
    """The fields in the form of Milvus' descriptions."""
    types = {"varchar": DataType.VARCHAR, "int64": DataType.INT64, "vector": DataType.FLOAT_VECTOR}
    types["sparse"] = DataType.SPARSE_FLOAT_VECTOR
    return [
        {
            "name": field.name,
            "type": types[field.kind],
            "params": {"dim": DIMENSION} if field.kind == "vector" else {"max_length": field.max_length},
        }
        for field in collection.FIELDS
        if with_sparse or field.kind != "sparse"
    ]


def rows(*, with_sparse: bool) -> list[Row]:
    random = np.random.default_rng(1)
    made = []
    for number in range(7):
        row: Row = {field.name: f"{field.name} 😀 {number}" for field in collection.FIELDS if field.kind == "varchar"}
        row |= {"doc_version": 2**40 + number, "vector": random.random(DIMENSION, "<f4"), "associate_id": ""}
        if with_sparse:
            row["sparse"] = {number + 7: 0.25, 3: 1.5, 2**31: 2.0}
        made.append(row)
    return made


@pytest.mark.parametrize("with_sparse", [False, True], ids=["dense", "sparse"])
def test_request_equals_the_request_of_pymilvus(with_sparse: bool) -> None:
    given = rows(with_sparse=with_sparse)
    theirs = Prepare.row_upsert_param(collection.ALIAS, given, "", described(with_sparse=with_sparse))
    assert milvus_upsert.pack(collection.ALIAS, given).SerializeToString() == theirs.SerializeToString()


def test_vectors_may_be_lists_of_floats() -> None:
    read = [{**row, "vector": row["vector"].tolist()} for row in rows(with_sparse=False)]
    assert milvus_upsert.pack("a", read) == milvus_upsert.pack("a", rows(with_sparse=False))
