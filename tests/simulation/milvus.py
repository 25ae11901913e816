"""Milvus in memory, as far as the shipped sink uses it: upserts, and queries and deletes by a list of keys."""

import json
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from pymilvus.exceptions import MilvusException
from pymilvus.grpc_gen import common_pb2

from schema import collection
from tests.simulation.scheduler import Scheduler
from tests.support.pipeline import DIMENSION, SYSTEM_ID

_FIELDS = [field for field in collection.FIELDS if field.kind != "sparse"]
_FILTER = re.compile(r"(\w+) in \[(.*)\]")


def _unavailable() -> Exception:
    error: Exception = MilvusException(code=65535, message="the server does not answer")
    return error


class Milvus:
    """The server; `rows` by chunk id, None when the collection is lost."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] | None = {}
        self.changes = 0

    def upsert(self, request: Any) -> None:
        columns = {data.field_name: _values(data) for data in request.fields_data}
        for number in range(request.num_rows):
            row = {name: values[number] for name, values in columns.items()}
            self.require()[row["chunk_id"]] = row
        self.changes += 1

    def delete(self, condition: str) -> None:
        for chunk_id in self.find(condition):
            self.require().pop(chunk_id)
        self.changes += 1

    def find(self, condition: str) -> list[str]:
        """The chunk ids of matching rows."""
        match = _FILTER.fullmatch(condition)
        assert match is not None, condition
        field, wanted = match[1], set(json.loads(f"[{match[2]}]"))
        return [chunk_id for chunk_id, row in self.require().items() if row[field] in wanted]

    def require(self) -> dict[str, dict[str, Any]]:
        if self.rows is None:
            raise MilvusException(code=100, message="collection not found")
        return self.rows


class Client:
    """What the sink calls of MilvusClient."""

    def __init__(self, server: Milvus, scheduler: Scheduler) -> None:
        self._server = server
        self._scheduler = scheduler
        self._stub = SimpleNamespace(Upsert=self._upsert)

    def has_collection(self, _name: str, timeout: float) -> bool:
        return self._server.rows is not None

    def load_collection(self, _name: str, timeout: float, _async: bool = False) -> None:
        self._server.require()

    def describe_collection(self, _name: str, timeout: float) -> Mapping[str, Any]:
        fields = [{"name": field.name, "params": {"dim": DIMENSION}} for field in _FIELDS]
        return {"fields": fields, "properties": {collection.SYSTEM_ID_PROPERTY: SYSTEM_ID}}

    def query(self, _name: str, *, filter: str, output_fields: list[str], **_: Any) -> list[dict[str, Any]]:
        self._scheduler.point("milvus.query", _unavailable)
        rows = self._server.require()
        found = [dict(rows[chunk_id]) for chunk_id in self._server.find(filter)]
        self._scheduler.point("milvus.query done")
        return found

    def delete(self, _name: str, *, filter: str, timeout: float) -> None:
        self._scheduler.point("milvus.delete", _unavailable)
        self._server.delete(filter)
        self._scheduler.point("milvus.delete done", _unavailable)

    def close(self) -> None:
        """Nothing is open."""

    def _generate_call_context(self) -> Any:
        return SimpleNamespace(to_grpc_metadata=list)

    def _get_connection(self) -> Any:
        return self

    def _upsert(self, request: Any, timeout: float, metadata: Any) -> Any:
        self._scheduler.point("milvus.upsert", _unavailable)
        self._server.upsert(request)
        self._scheduler.point("milvus.upsert done", _unavailable)
        return SimpleNamespace(status=common_pb2.Status())


def _values(data: Any) -> list[Any]:
    if data.HasField("scalars"):
        return list(data.scalars.string_data.data or data.scalars.long_data.data)
    vectors = np.array(data.vectors.float_vector.data, "<f4")
    return list(vectors.reshape(-1, data.vectors.dim))
