"""The object that names the system of a bucket, on a directory and on a server: two systems at the same moment."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumers.applier import Applier
from consumers.minio.sink import MinioSink
from schema.failures import StoreMissing
from schema.object_store import marker
from schema.object_store.directory import DirectoryStore
from schema.object_store.layout import SYSTEM_ID_KEY
from schema.object_store.port import ObjectStore
from schema.object_store.s3 import S3Store
from schema.ownership import OtherSystem
from schema.sinks import MINIO
from tests.support.consumer_loop import Clock
from tests.support.pipeline import MARKS, Pipeline, document
from tests.support.servers import MinioServer

pytestmark = pytest.mark.integration

FIRST, SECOND = "11111111-0000-4000-8000-000000000000", "22222222-0000-4000-8000-000000000000"
Open = Callable[[str], MinioSink]


@pytest.fixture(params=["directory", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "directory":
        yield DirectoryStore(tmp_path / "objects")
        return
    server: MinioServer = request.getfixturevalue("minio_server")
    with server.bucket() as name:
        yield S3Store(server.client(), name)


class Interrupted:
    """A store whose first `put` runs `before` and `after`, so that another process is in between."""

    def __init__(
        self, store: ObjectStore, before: Callable[[], None] = lambda: None, after: Callable[[], None] = lambda: None
    ) -> None:
        self._store, self._before, self._after = store, before, after

    def put(self, *arguments: Any, **options: Any) -> None:
        self._before()
        self._store.put(*arguments, **options)
        self._after()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def create(store: Any, system_id: str) -> None:
    with closing(MinioSink(store, system_id)) as sink:
        sink.create()


def check(store: Any, system_id: str) -> None:
    with closing(MinioSink(store, system_id)) as sink:
        sink.ensure()


def test_store_of_one_system_is_refused_to_another(store: ObjectStore) -> None:
    with pytest.raises(StoreMissing, match="run rag-outbox init"):
        check(store, FIRST)
    store.ensure()
    with pytest.raises(StoreMissing, match="which names the system of the bucket: run rag-outbox init"):
        check(store, FIRST)
    create(store, FIRST)
    create(store, FIRST)
    check(store, FIRST)
    for refused in (create, check):
        with pytest.raises(
            OtherSystem,
            match=f"^the bucket .* belongs to the system {FIRST}: set another .* init --system-id {FIRST} on it$",
        ):
            refused(store, SECOND)
    assert marker.read(store) == FIRST


def test_overwritten_marker_stops_the_first_system_at_its_next_start(store: ObjectStore) -> None:
    """Both found no marker; the second wrote last, after the first had read its own back."""
    create(Interrupted(store, before=lambda: create(store, FIRST)), SECOND)
    check(store, SECOND)
    with pytest.raises(OtherSystem):
        check(store, FIRST)


def test_init_whose_marker_is_overwritten_at_once_fails(store: ObjectStore) -> None:
    def overwrite() -> None:
        store.remove([SYSTEM_ID_KEY])
        create(store, SECOND)

    with pytest.raises(OtherSystem):
        create(Interrupted(store, after=overwrite), FIRST)
    check(store, SECOND)


def test_running_consumer_stops_when_its_bucket_becomes_anothers(pipeline: Pipeline) -> None:
    clock = Clock()
    minio = Applier(pipeline.engine, pipeline.minio_sink, MARKS[MINIO], clock=clock)
    pipeline.upsert(document("a", "one"))
    assert minio.apply(pipeline.pending()) == []
    pipeline.store.remove([SYSTEM_ID_KEY])
    create(pipeline.store, SECOND)
    held = list(pipeline.store.keys(""))
    pipeline.upsert(document("b", "one", file=b"x"))
    clock.pass_time(11.0)
    with pytest.raises(OtherSystem):
        minio.apply(pipeline.pending())
    assert list(pipeline.store.keys("")) == held
