"""What the tests of refill share: a sink that is interrupted, lost rows, and the states of documents."""

from collections.abc import Callable, Sequence

from consumers.refill import Refill
from consumers.sink import Change, Sink
from schema.sinks import MILVUS
from tests.support.pipeline import MARKS, Pipeline


class During:
    """The real sink; `step` runs after it applied a change and before that is marked."""

    def __init__(self, sink: Sink, step: Callable[[], None]) -> None:
        self.name, self.takes_vectors, self.takes_files = sink.name, sink.takes_vectors, sink.takes_files
        self.create, self.ensure, self.close = sink.create, sink.ensure, sink.close
        self.applied: list[list[Change]] = []
        self._sink, self._step = sink, step

    def apply(self, changes: Sequence[Change]) -> None:
        self.applied.append(list(changes))
        self._sink.apply(changes)
        self._step()


def refill_of(pipeline: Pipeline, sink: Sink) -> Refill:
    return Refill(pipeline.engine, sink, MARKS[sink.name], pipeline.store)


def sink_of(pipeline: Pipeline, name: str) -> Sink:
    return pipeline.milvus_sink if name == MILVUS else pipeline.minio_sink


def empty_milvus(pipeline: Pipeline) -> None:
    pipeline.milvus.delete("rag_vectors", ids=list(pipeline.milvus_rows()))


def states(pipeline: Pipeline, sink: str) -> dict[str, tuple[str, int]]:
    rows = pipeline.sql("SELECT doc_id, state, applied_version FROM sink_states WHERE sink = :sink", sink=sink)
    return {doc_id: (state, version) for doc_id, state, version in rows}


def errors(pipeline: Pipeline, sink: str) -> list[str | None]:
    return [one for (one,) in pipeline.sql("SELECT last_error FROM sink_states WHERE sink = :sink", sink=sink)]


def make_due(pipeline: Pipeline) -> None:
    pipeline.execute("UPDATE sink_states SET requested_at = '2020-01-01 00:00:00' WHERE state = 'absent'")
