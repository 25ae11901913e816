"""Documents for load tests: some have several versions, some are deleted, some of these are written again.

Each vector is computed from its text. Its numbers are single digits, so that JSON is written and read quickly.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

DIMENSION = 1024
CHUNKS = 9
LARGE_CHUNKS = 150  # of every hundredth document, more than one event holds: 2,000 documents have 20,820
LARGE_FILE_BYTES = 100_000  # staged

_DIGITS = np.frombuffer(b"0,1,2,3,4,5,6,7,8,9,", "<u2")


def _digits(content: str) -> npt.NDArray[np.uint8]:
    return np.frombuffer(hashlib.shake_256(content.encode()).digest(DIMENSION), np.uint8) % 10


def vector(content: str) -> npt.NDArray[np.float32]:
    return _digits(content).astype(np.float32)


@dataclass(frozen=True)
class Written:
    """The state of a document; each written state differs from the previous one."""

    doc_id: str
    contents: tuple[str, ...]
    tag: str
    file: bytes

    def line(self) -> bytes:
        """The input line for `rag-outbox write`."""
        fields = {
            "doc_id": self.doc_id,
            "title": f"Title of {self.doc_id}",
            "source_type": "text",
            "business_tag": self.tag,
            "file": {"base64": base64.b64encode(self.file).decode(), "name": "notes.txt"},
        }
        chunks = b",".join(
            b'{"content":%b,"vector":[%b]}' % (json.dumps(content).encode(), _DIGITS[_digits(content)].tobytes()[:-1])
            for content in self.contents
        )
        return b'%b,"chunks":[%b]}\n' % (json.dumps(fields).encode()[:-1], chunks)


class Share:
    """The work of one writer: a file, deletions, a second file."""

    def __init__(self, writer: str, documents: int) -> None:
        first = {doc_id: first_version(doc_id, n) for n, doc_id in enumerate(f"{writer}-{n}" for n in range(documents))}
        some = list(first)
        self.files: list[list[Written]] = [[], []]
        self.deleted = some[3::10]
        for start in range(0, documents, 100):  # later versions of a hundred documents before the next hundred
            batch = some[start : start + 100]
            self.files[0] += [first[doc_id] for doc_id in batch]
            self.files[0] += [edited(first[doc_id]) for doc_id in batch[::5]]
        self.files[1] += [edited(first[doc_id]) for doc_id in self.deleted[::2]]  # written again, with other words
        self.files[1] += [replace(first[doc_id], tag="other") for doc_id in some[1::10]]

    @property
    def versions(self) -> dict[str, int]:
        """The last version of each document; a deletion counts as a version."""
        written = [one.doc_id for file in self.files for one in file] + self.deleted
        return {doc_id: written.count(doc_id) for doc_id in set(written)}

    @property
    def living(self) -> dict[str, Written]:
        before, after = ({one.doc_id: one for one in file} for file in self.files)
        return {doc_id: one for doc_id, one in before.items() if doc_id not in self.deleted} | after

    def write_files(self, folder: Path) -> Iterator[Path]:
        for number, some in enumerate(self.files):
            path = folder / f"{some[0].doc_id}-{number}.jsonl"
            path.write_bytes(b"".join(one.line() for one in some))
            yield path


def first_version(doc_id: str, number: int) -> Written:
    chunks = LARGE_CHUNKS if number % 100 == 50 else CHUNKS
    size = LARGE_FILE_BYTES if number % 50 == 10 else 1_000
    contents = tuple(f"Chunk {at} of the document {doc_id}, as it was first." for at in range(chunks))
    return Written(doc_id, contents, f"tag-{number % 3}", f"{doc_id} at first. ".encode() * (size // 20))


def edited(before: Written) -> Written:
    """One chunk changed, one removed, one added; another file."""
    contents = (f"Another start of {before.doc_id}.", *before.contents[2:], f"And an end of {before.doc_id}.")
    return replace(before, contents=contents, file=before.file + b"Edited.")
