"""Direct access to MySQL, Milvus and the S3 store of one system, and a comparison with what was written to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5, sha256
from typing import Any

import numpy as np
from minio import Minio
from pymilvus import MilvusClient
from sqlalchemy import Engine, text

from tests.support.corpus import Written, vector

_FIELDS = ["chunk_id", "doc_id", "content_hash", "content", "business_tag", "oss_id"]
_WITH_VECTORS = "07"  # first digits of chunk ids; their vectors, an eighth of all, are compared
_ARCHIVES = "processed-data/embeddings/"


@dataclass(frozen=True)
class Stores:
    engine: Engine
    milvus: MilvusClient
    minio: Minio
    bucket: str
    alias: str

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]

    def count(self, from_where: str) -> int:
        [(count,)] = self.sql(f"SELECT COUNT(*) FROM {from_where}")
        return int(count)

    def pending(self) -> int:
        """The number of documents that are not completed, and of events in the outbox."""
        return self.count("documents WHERE status <> 'completed'") + self.count("outbox")

    def progress(self, does: str) -> int:
        """A number that grows while the relays, or the consumers of one sink, make progress."""
        if does == "relay":
            return self.count("operation_logs") - self.count("outbox")
        [(applied,)] = self.sql(f"SELECT IFNULL(SUM(applied_version), 0) FROM sink_states WHERE sink = '{does}'")
        return int(applied)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Every row in Milvus by chunk id, an eighth of them with vectors."""
        found: list[dict[str, Any]] = []
        for digit in "0123456789abcdef":
            found += self.milvus.query(
                self.alias,
                filter=f'chunk_id >= "{digit}" and chunk_id < "{chr(ord(digit) + 1)}"',
                output_fields=[*_FIELDS, "vector"] if digit in _WITH_VECTORS else _FIELDS,
                consistency_level="Strong",
                timeout=60,
            )
        rows = {row["chunk_id"]: row for row in found}
        assert len(rows) == len(found), "Milvus holds a chunk twice"
        return rows

    def objects(self) -> dict[str, str | None]:
        """The ETag of each object by its key: the MD5 of its bytes, computed by the server."""
        listed = self.minio.list_objects(self.bucket, recursive=True)
        return {item.object_name: item.etag for item in listed if item.object_name is not None}

    def content(self, key: str) -> bytes:
        response = self.minio.get_object(bucket_name=self.bucket, object_name=key)
        try:
            return response.read()
        finally:
            response.close()
            response.release_conn()

    def assert_holds(self, living: Mapping[str, Written], versions: Mapping[str, int]) -> None:
        """Every store holds exactly what was written; nothing is pending, dead or wrongly marked.

        `living` are the documents that were not deleted, `versions` the last version of all documents.
        """
        self._assert_metadata(living, versions)
        self._assert_vectors(living)
        self._assert_objects(living)

    def _assert_metadata(self, living: Mapping[str, Written], versions: Mapping[str, int]) -> None:
        assert dict(self.sql("SELECT doc_id, version FROM documents")) == versions
        documents = self.sql("SELECT doc_id, business_tag, chunk_count FROM documents WHERE deleted_at IS NULL")
        assert {doc_id: rest for doc_id, *rest in documents} == {
            one.doc_id: [one.tag, len(one.contents)] for one in living.values()
        }
        chunks = self.sql("SELECT doc_id, chunk_index, content FROM chunks")
        assert sorted(chunks) == sorted(
            (one.doc_id, index, content) for one in living.values() for index, content in enumerate(one.contents)
        )
        for table in ("outbox", "outbox_dead_letters", "chunk_tombstones"):
            assert self.count(table) == 0, table
        assert self.count("chunks WHERE NOT milvus_synced") == 0
        assert self.count("documents WHERE status <> 'completed'") == 0
        states = "sink_states JOIN documents USING (doc_id)"
        assert self.count(f"{states} WHERE applied_version = version AND state = 'applied'") == 2 * len(versions)

    def _assert_vectors(self, living: Mapping[str, Written]) -> None:
        rows = self.rows()
        assert sorted(
            tuple(row[name] for name in ("chunk_id", "doc_id", "content_hash", "oss_id")) for row in rows.values()
        ) == sorted(
            self.sql("SELECT chunk_id, doc_id, content_hash, oss_key FROM chunks JOIN documents USING (doc_id)")
        )
        assert sorted((row["doc_id"], row["content"], row["business_tag"]) for row in rows.values()) == sorted(
            (one.doc_id, content, one.tag) for one in living.values() for content in one.contents
        )
        compared = [row for row in rows.values() if "vector" in row]
        assert len(compared) > len(rows) / 16
        assert all(np.array_equal(row["vector"], vector(row["content"])) for row in compared)

    def _assert_objects(self, living: Mapping[str, Written]) -> None:
        """Compare the bytes of one file in eight, and the digest of the others."""
        objects = self.objects()
        archives = {key for key in objects if key.startswith(_ARCHIVES)}
        assert {key.split("/")[2] for key in archives} == living.keys()
        stored = self.sql("SELECT object_key, doc_id, sha256, removed_in_version FROM document_files")
        assert sorted(doc_id for _, doc_id, *_ in stored) == sorted(living)
        files = {key: living[doc_id].file for key, doc_id, *_ in stored}
        for key, _, digest, removed_in_version in stored:
            assert (digest, removed_in_version) == (sha256(files[key]).hexdigest(), None), key
        # Staged files of superseded versions stay until the sweep removes them.
        found = {key: etag for key, etag in objects.items() if key.startswith("raw-files/")}
        assert found == {key: md5(file).hexdigest() for key, file in files.items()}
        for key in list(files)[::8]:
            assert self.content(key) == files[key], key
