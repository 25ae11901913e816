"""What a run compares, and how thoroughly."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scope:
    """`sinks` are the names of the sinks; their content is compared for instances of `milvus`, and for `minio`.

    `sample` is the share of the keys, 1.0 for all. `digests` asks the object store for the SHA-256 of every file,
    `vectors` compares the vectors in Milvus with the archive.
    """

    sinks: tuple[str, ...]
    sample: float = 1.0
    digests: bool = False
    vectors: bool = False
    stuck_seconds: float = 3_600.0
    slice_rows: int = 10_000

    def to_facts(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Scope":
        return cls(**facts | {"sinks": tuple(facts["sinks"])})
