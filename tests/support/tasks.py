"""Uploads and workers of the task queue, on the pipeline of the tests."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from consumers.minio.translate import translate_errors
from producer import DocumentFile, run
from producer.processing.extract.extract import FileExtractor
from producer.processing.tasks.queue import Task
from producer.processing.tasks.steps import Steps
from producer.processing.tasks.upload import Upload, upload
from producer.processing.tasks.worker import Workers
from schema.database.tables import TASK_TYPES
from tests.support.pipeline import DIMENSION, MODEL, Pipeline, vector


class VectorEmbedder:
    """Embeds as `tests.support.pipeline.vector` does, and counts the texts."""

    model, dimension = MODEL, DIMENSION

    def __init__(self) -> None:
        self.texts: list[str] = []

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        return np.array([vector(content) for content in texts], dtype=np.float32)


def upload_text(pipeline: Pipeline, doc_id: str, text: str | bytes, name: str = "note.md", **fields: Any) -> str:
    """Upload a file with this text; returns the id of the first task."""
    path = pipeline.store.root.parent / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return upload_path(pipeline, doc_id, path, **fields)


def upload_path(pipeline: Pipeline, doc_id: str, path: Path, **fields: Any) -> str:
    file = DocumentFile.from_path(path, pipeline.store, always_stage=True)
    given = Upload(doc_id=doc_id, name=path.name, file=file, **fields)
    return run(pipeline.engine, lambda connection: upload(connection, pipeline.writer, given))


@contextmanager
def open_steps(pipeline: Pipeline, embedder: VectorEmbedder | None = None) -> Iterator[Steps]:
    with FileExtractor() as extractor:
        yield Steps(pipeline.engine, pipeline.store, pipeline.writer, embedder or VectorEmbedder(), extractor)


def work(
    pipeline: Pipeline,
    *,
    embedder: VectorEmbedder | None = None,
    task_types: Collection[str] = TASK_TYPES,
    threads: int = 1,
) -> list[tuple[str, str]]:
    """Run all tasks that are due; returns their (type, status)."""
    ended: list[tuple[str, str]] = []
    stop = threading.Event()

    def steps() -> AbstractContextManager[Steps]:
        return open_steps(pipeline, embedder)

    def report(task: Task, status: str, _seconds: float) -> None:
        ended.append((task.task_type, status))

    workers = Workers(
        pipeline.engine,
        steps,
        threads=threads,
        task_types=task_types,
        translate_errors=translate_errors,
        report=report,
    )
    workers.run(stop, until_idle=True)
    return ended
