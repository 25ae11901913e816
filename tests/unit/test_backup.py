"""The parts of backups that need no server: streams, lists, copies, the topic's position, the client's options."""

import hashlib
import io
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from operations.backup import keys
from operations.backup.database.mysql_client import MySQLClient
from operations.backup.database.mysql_options import option_file
from operations.backup.errors import BackupFailed, BackupUnusable, ClientUnusable
from operations.backup.locations import open_location
from operations.backup.manifest import ObjectList, TopicPosition
from operations.backup.objects import copy, object_list
from operations.backup.objects.copy import Outcome
from operations.backup.objects.streams import DigestReader, LinesReader, VerifyingReader, read_lines
from operations.backup.settling.topic_position import find_loss
from operations.cli.backup_output import describe_orphans, orphan_facts
from operations.errors import UsageError
from operations.reconcile.repair_plan import RepairPlan
from operations.settings import Settings
from schema.object_store.directory import DirectoryStore
from tests.contracts.object_store import put
from tests.support.memory_object_store import MemoryObjectStore

pytestmark = pytest.mark.unit

HELLO = hashlib.sha256(b"hello").hexdigest()
MIB = 1024 * 1024


def test_timestamps_sort_by_time_and_are_checked() -> None:
    assert keys.format_timestamp(datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)) == "20260131T120005Z"
    assert keys.parse_timestamp("20260131T120005Z") == datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
    for wrong in ("", "2026", "20260131T120005", "20261331T120005Z", "../x"):
        with pytest.raises(ValueError, match="is no timestamp of a backup"):
            keys.parse_timestamp(wrong)
    assert keys.timestamp_of(keys.dump_key("20260131T120005Z", "sql")) == "20260131T120005Z"
    assert keys.timestamp_of("backups/mysql/dump_x.sql") is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"hullo", "is damaged"), (b"hell", "has 4 bytes"), (b"hello!", "has 6 bytes|is damaged")],
)
def test_damaged_stream_writes_nothing(content: bytes, reason: str) -> None:
    store = MemoryObjectStore()
    for size_bytes in (5, None):
        stream = VerifyingReader(io.BytesIO(content), "the dump", size_bytes=5, sha256=HELLO)
        with pytest.raises((BackupUnusable, OSError), match=f"the dump ({reason})|bytes instead of"):
            store.put("a", stream, size_bytes=size_bytes, content_type="text/plain", sha256=None)
        assert store.objects == {}


def test_list_of_objects_survives_odd_keys() -> None:
    store = MemoryObjectStore()
    listed = [("a\nb", 1), ("a\\nb", 2), ("c\t\\", 3), ("手册", 4)]
    made = object_list.write_list(store, "20260131T120005Z", listed)
    assert (made.objects, made.size_bytes) == (4, 10)
    assert list(object_list.read_list(store, made)) == listed
    damaged = ObjectList(made.key, HELLO, 4, 10)
    with pytest.raises(BackupUnusable, match="is damaged: its SHA-256"):
        list(object_list.read_list(store, damaged))


def test_lines_are_read_in_pieces_of_any_size() -> None:
    lines = [b"a\n", b"\n", b"longer line\n", b"end"]
    for size in (1, 3, 100, -1):
        stream = LinesReader(lines)
        pieces = [piece for piece in iter(lambda: stream.read(size), b"")]  # noqa: B023, C416
        assert b"".join(pieces) == b"".join(lines)
        assert size < 0 or max(map(len, pieces)) <= size
    assert list(read_lines(LinesReader(lines))) == [b"a", b"", b"longer line", b"end"]


def copy_all(source: MemoryObjectStore, target: MemoryObjectStore, timestamp: str) -> dict[str, Outcome]:
    found = copy.copy_objects(source, target, object_list.list_objects(source), replaced_by=timestamp)
    return {key: outcome for key, _, outcome in found}


def test_copy_is_incremental_and_keeps_every_older_state() -> None:
    source, target = MemoryObjectStore(), MemoryObjectStore()
    for key in ("a", "b", "system-id", "backups/mysql/dump_x.sql"):
        put(source, key, b"1")
    assert copy_all(source, target, "1") == {"a": Outcome.COPIED, "b": Outcome.COPIED}
    put(source, "a", b"2")
    assert copy_all(source, target, "2") == {"a": Outcome.COPIED, "b": Outcome.SKIPPED}
    put(source, "a", b"33")
    source.remove(["b"])
    assert copy_all(source, target, "3") == {"a": Outcome.COPIED}
    for timestamp, content in (("1", b"1"), ("2", b"2"), ("3", b"33")):
        back = MemoryObjectStore()
        put(back, "a", b"another")
        wanted = [("a", len(content)), ("b", 1)]
        done = copy.copy_objects(target, back, wanted, sources=copy.find_sources(target, timestamp))
        assert [outcome for *_, outcome in done] == [Outcome.COPIED] * 2
        assert back.objects == {"a": content, "b": b"1"}


def test_object_that_is_gone_or_damaged_is_named_and_others_are_copied() -> None:
    class Rotten(MemoryObjectStore):
        def sha256(self, key: str) -> str | None:
            return HELLO if key == "rotten" else super().sha256(key)

    source, target = Rotten(), MemoryObjectStore()
    for key in ("good", "rotten"):
        put(source, key, b"12345")
    done = copy.copy_objects(source, target, [("gone", 1), ("good", 5), ("rotten", 5)])
    assert [outcome for *_, outcome in done] == [Outcome.GONE, Outcome.COPIED, Outcome.DAMAGED]
    assert target.objects == {"good": b"12345"}


POSITION = TopicPosition("rag.documents", "id", {0: 5, 1: 0})


@pytest.mark.parametrize(
    ("position", "topic_id", "bounds", "reason"),
    [
        (POSITION, "id", {0: (5, 9), 1: (0, 0)}, ""),
        (POSITION, "id", {0: (0, 5), 1: (0, 3)}, ""),
        (POSITION, None, {}, "there is no topic"),
        (None, "id", {0: (0, 9)}, "does not know"),
        (POSITION, "other", {0: (0, 9), 1: (0, 9)}, "made again"),
        (POSITION, "id", {0: (0, 4), 1: (0, 9)}, "partition 0 of rag.documents ends at 4, before 5"),
        (POSITION, "id", {0: (6, 9), 1: (0, 9)}, "partition 0 of rag.documents begins at 6"),
        (POSITION, "id", {1: (0, 9)}, "partition 0 of rag.documents ends at 0"),
    ],
)
def test_topic_that_lost_events_is_recognised(
    position: TopicPosition | None, topic_id: str | None, bounds: dict[int, tuple[int, int]], reason: str
) -> None:
    found = find_loss(position, topic_id, bounds)
    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ""),
        ("?ssl_disabled=true", 'ssl-mode="DISABLED"'),
        ("?ssl_ca=/a/ca.pem", 'ssl-ca="/a/ca.pem"\nssl-mode="VERIFY_CA"'),
        ("?ssl_ca=/a&ssl_verify_identity=true", 'ssl-ca="/a"\nssl-mode="VERIFY_IDENTITY"'),
        ("?ssl_cert=/c&ssl_key=/k", 'ssl-cert="/c"\nssl-key="/k"\nssl-mode="REQUIRED"'),
    ],
)
def test_options_of_the_client_are_those_of_the_url(query: str, expected: str) -> None:
    with option_file(make_url(f"mysql+pymysql://me:p%22%5C%23@db:3307/x{query}")) as number:
        content = Path(f"/dev/fd/{number}").read_text()
        assert Path(f"/dev/fd/{number}").stat().st_mode & 0o777 == 0o600
    common = 'user="me"\npassword="p"\\\\#"\nget-server-public-key="1"\nprotocol="TCP"\nhost="db"\nport="3307"\n'
    assert content == f"[client]\n{common}{expected}" + ("\n" if expected else "")


def test_place_of_a_backup_is_named_by_a_url_without_secrets(tmp_path: Path) -> None:
    given = Settings(
        object_store="http://127.0.0.1:9", object_store_access_key="a", object_store_secret_key=SecretStr("b")
    )
    for url in ("s3://other", "http://127.0.0.1:8/other", "https://db.example/other/"):
        assert open_location(given, url, "--to").location("k") == "s3://other/k"
    assert open_location(given, f"file://{tmp_path}/a%20b", "--to").location("k") == f"{tmp_path}/a b/k"
    for wrong in ("", "x", "s3://", "s3://a/b", "http://h:x/b", "http://h/", "http://h/a/b", "file://h/x", "file:x"):
        with pytest.raises(UsageError, match=r"^--from"):
            open_location(given, wrong, "--from")
    for secret in ("http://me:secret@h/b", "s3://secret@b", "http://h/b?secret=1"):
        with pytest.raises(UsageError) as raised:
            open_location(given, secret, "--from")
        assert "secret" not in str(raised.value)
    with pytest.raises(UsageError, match="BACKUP_ACCESS_KEY"):
        open_location(Settings(), "http://127.0.0.1:8/other", "--to")


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


URL = make_url("mysql+pymysql://me:secret@127.0.0.1:9/x")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("mysqldump from 11.8.3-MariaDB, client 10.19 for debian-linux-gnu (x86_64)", "is MariaDB's"),
        ("mysqldump  Ver 10.19 Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)", "is MariaDB's"),
        ("mysqldump  Ver 10.13 Distrib 5.7.44, for Linux (x86_64)", "is not MySQL's client of version 8.0 or later"),
        ("something else", "is not MySQL's client"),
    ],
)
def test_another_client_is_refused(tmp_path: Path, said: str, reason: str) -> None:
    for name in ("mysqldump", "mysql"):
        program(tmp_path, name, f"echo '{said}'")
    with pytest.raises(ClientUnusable, match=reason):
        MySQLClient(URL, tmp_path).require()


def test_missing_client_is_named(tmp_path: Path) -> None:
    program(tmp_path, "mysqldump", "echo 'mysqldump  Ver 8.4.10 for Linux on x86_64'")
    with pytest.raises(ClientUnusable, match=r"no program mysql in .* \(RAG_OUTBOX_MYSQL_CLIENT_DIR\): install"):
        MySQLClient(URL, tmp_path).require()


def test_dump_of_many_megabytes_takes_little_memory(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "bucket")
    store.ensure()
    table = "printf '\\n-- Table structure for table `x`\\n'; head -c 60000000 /dev/zero"
    version = "[ $1 = --version ] && echo 'mysqldump  Ver 8.4.10 for Linux on x86_64' && exit"
    program(tmp_path, "mysqldump", f"{version}; {table}; printf '\\n-- Dump completed on today\\n'")
    tracemalloc.start()
    try:
        with MySQLClient(URL, tmp_path).dump("x", ["y"]) as output:
            output.await_snapshot()
            stream = DigestReader(output)
            store.put("dump", stream, size_bytes=None, content_type="application/sql", sha256=None)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stream.size_bytes > 60_000_000
    assert store.sha256("dump") == stream.sha256
    assert peak_bytes < 8 * MIB


def test_dump_that_ends_early_is_no_dump(tmp_path: Path) -> None:
    version = "[ $1 = --version ] && echo 'mysqldump  Ver 8.4.10 for Linux on x86_64' && exit"
    program(tmp_path, "mysqldump", f"{version}; echo; echo '-- Table structure for table'")
    with (
        MySQLClient(URL, tmp_path).dump("x", ["y"]) as output,
        pytest.raises(BackupFailed, match="ended before the end of the dump"),
    ):
        output.read()


@pytest.mark.parametrize(("unknown", "command"), [(2, "--repair --yes"), (150, "--repair --yes --force")])
def test_restore_ends_with_the_command_that_removes_orphans(unknown: int, command: str) -> None:
    """Over a hundred documents and a tenth of all, a repair asks for --force."""
    plan = RepairPlan(10, unknown={f"lost-{number:03d}": 1 for number in range(unknown)})
    facts = orphan_facts(plan)
    [summary, last] = describe_orphans(facts)
    assert f"{unknown} documents that the restored database does not know: lost-000, lost-001" in summary
    assert ("and 130 more" in summary) == (unknown == 150)
    assert last == f"    rag-outbox reconcile {command}"
    assert (orphan_facts(RepairPlan(10)), describe_orphans({})) == ({}, [])
