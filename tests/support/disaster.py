"""A system on real servers that loses its stores after a backup, and what it must hold after the restore."""

from dataclasses import replace

from sqlalchemy import make_url

from schema.object_store.s3 import S3Store
from tests.chaos.conftest import System
from tests.support.corpus import Written, edited, first_version
from tests.support.servers import run_statement
from tests.support.services import Services
from tests.support.waiting import wait_for

DOCUMENTS = 14  # the eleventh has a large file
LOST = [f"lost-{number}" for number in range(3)]


class Disaster:
    """`living` and `versions` are those of the backup; a document that it lacks becomes a deleted one."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.living: dict[str, Written] = {}
        self.versions: dict[str, int] = {}

    def fill(self) -> None:
        """Small and large files, labels, edited and deleted documents; every store has them at the end."""
        first = {name: first_version(name, number) for number, name in enumerate(f"doc-{n}" for n in range(DOCUMENTS))}
        self.write(*first.values())
        again = [edited(first["doc-1"]), replace(first["doc-2"], tag="other")]
        self.write(*again)
        self.system.folder.succeed("delete", "doc-3", "doc-4")
        self.await_completed()
        self.living = first | {one.doc_id: one for one in again}
        self.versions = dict.fromkeys(first, 1) | dict.fromkeys(("doc-1", "doc-2", "doc-3", "doc-4"), 2)
        for doc_id in ("doc-3", "doc-4"):
            del self.living[doc_id]

    def write_what_waits(self) -> None:
        """Documents that the backup has, and that no sink, or not every sink, has at that time; one file is staged."""
        some = [first_version(f"waiting-{number}", 10 * number) for number in range(2)]
        changed = replace(self.living["doc-5"], tag="waiting")
        self.write(*some, changed)
        self.living |= {one.doc_id: one for one in (*some, changed)}
        self.versions |= {**dict.fromkeys((one.doc_id for one in some), 1), "doc-5": 2}

    def write_what_is_lost(self) -> None:
        """New, changed, deleted and relabelled documents, and a deleted one written again; consumers apply them."""
        self.write(*(first_version(name, 10) for name in LOST))
        self.write(
            edited(self.living["doc-1"]),
            edited(self.living["doc-10"]),  # its large file, too
            replace(self.living["doc-5"], tag="lost"),
            replace(first_version("doc-3", 3), contents=("The lost words of a deleted document.",)),
        )
        self.system.folder.succeed("delete", "doc-6", "doc-7")
        self.await_completed()

    def lose_mysql(self) -> None:
        url = make_url(self.system.folder.settings["database_url"])
        self.system.stores.engine.dispose()
        run_statement(url, f"DROP DATABASE `{url.database}`")

    def lose_milvus(self) -> None:
        milvus, alias = self.system.stores.milvus, self.system.stores.alias
        name = milvus.describe_collection(alias)["collection_name"]
        milvus.drop_alias(alias)
        milvus.drop_collection(name)

    def empty_bucket(self) -> None:
        """The marker, too; the bucket stays."""
        S3Store(self.system.stores.minio, self.system.stores.bucket).remove(self.system.stores.objects())

    def write(self, *documents: Written) -> None:
        lines = b"".join(one.line() for one in documents)
        outcome = self.system.folder.run("write", "-", stdin=lines)
        assert outcome.status == 0, outcome

    def await_completed(self) -> None:
        wait_for(lambda: self.system.stores.pending() == 0, "every document to be completed", timeout_seconds=120)

    def assert_restored(self, *, tombstones: bool = True) -> None:
        """`tombstones`: the topic told of the documents that the backup lacks."""
        lost: dict[str, int] = dict.fromkeys(LOST, 2) if tombstones else {}
        self.system.stores.assert_holds(self.living, self.versions | lost)


def start_all(some: Services) -> None:
    some.relay()
    for sink in ("milvus", "minio"):
        some.consumer(sink)


def kill_all(some: Services) -> None:
    for process in some.processes:
        if process.status is None:
            process.kill()
