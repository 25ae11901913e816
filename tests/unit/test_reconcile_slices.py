"""Slices cover every key exactly once, with any ids; a sample takes about its share of them."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, insert, select

from operations.reconcile.archives import _list
from operations.reconcile.listing import Listing
from operations.reconcile.pace import Interrupted, Pace
from operations.reconcile.slices import Slice, read_slices
from schema import archive
from schema.database.connection import connect
from schema.database.tables import metadata, sinks
from schema.object_store import layout
from tests.contracts.object_store import put
from tests.support.memory_object_store import MemoryObjectStore

pytestmark = pytest.mark.unit

NAME = sinks.c.name
IDS = st.sets(
    st.text("ab-/.0ø", min_size=1, max_size=4).filter(lambda one: "/" not in one and one[0] != "."), max_size=40
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(f"sqlite:///{tmp_path / 'one.db'}")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def fill(engine: Engine, names: list[str]) -> None:
    rows = [{"name": name, "required": True, "takes_vectors": True, "takes_files": True} for name in names]
    with engine.begin() as connection:
        connection.execute(insert(sinks), rows)


def read(engine: Engine, **options: object) -> list[Slice]:
    return list(read_slices(engine, select(NAME), NAME, **options))  # type: ignore[arg-type]


def test_slices_leave_no_gap(engine: Engine) -> None:
    names = sorted(f"{number:03d}" for number in range(25))
    fill(engine, names)
    slices = read(engine, rows=10)
    assert [(one.after, one.upto) for one in slices] == [("", "009"), ("009", "019"), ("019", None)]
    assert [row[0] for one in slices for row in one.rows] == names
    assert [row[0] for one in read(engine, rows=10, after="017") for row in one.rows] == names[18:]


def test_empty_table_is_one_slice_without_an_end(engine: Engine) -> None:
    assert read(engine, rows=10) == [Slice("", None, [])]


def test_sample_takes_about_its_share_and_at_least_one_slice(engine: Engine) -> None:
    fill(engine, [f"{number:05d}" for number in range(4_000)])
    chance = random.Random(1)
    counts = [len(read(engine, rows=10, sample=0.1, choose=chance)) for _ in range(20)]
    assert 20 < sum(counts) / 20 < 60
    assert min(len(read(engine, rows=500, sample=0.0001, choose=chance)) for _ in range(20)) == 1


@settings(max_examples=60, deadline=None)
@given(IDS, st.integers(1, 5))
def test_slices_list_the_archive_of_every_document_once(ids: set[str], rows: int) -> None:
    """Keys are ordered otherwise than ids: `a-1/` comes before `a/`."""
    store = MemoryObjectStore()
    for doc_id in ids:
        put(store, layout.embeddings_key(doc_id, 1, 1), b"x")
    ordered = sorted(ids)
    ends = ordered[rows - 1 :: rows]
    listing = Listing(store, "processed-data/embeddings/")
    found: list[str] = []
    for after, upto in zip(["", *ends], [*ends, None], strict=True):
        keys = list(_list(store, listing, after, upto))
        assert all(after < key.split("/")[2] and (upto is None or key.split("/")[2] <= upto) for key in keys)
        found += keys
    assert sorted(found) == sorted(key for doc_id in ids for key in archive.keys(store, doc_id))


def test_pace_waits_for_its_rate_and_ends_when_told() -> None:
    waited: list[float] = []

    class Stop:
        is_stopped = False

        def wait(self, seconds: float) -> None:
            waited.append(round(seconds, 3))

        def is_set(self) -> bool:
            return self.is_stopped

    stop = Stop()
    pace = Pace(100, stop, clock=lambda: 0.0)  # type: ignore[arg-type]
    pace.spend(50)
    pace.spend(100)
    assert waited == [0.5, 1.5]
    stop.is_stopped = True
    with pytest.raises(Interrupted):
        pace.spend(1)
