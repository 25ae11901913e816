"""The contract of every object store."""

import hashlib
import io
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from schema.object_store.port import ObjectMissing, ObjectStore

HELLO_SHA256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
MIB = 1024 * 1024


def put(store: ObjectStore, key: str, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    store.put(key, io.BytesIO(content), size_bytes=len(content), content_type="text/plain", sha256=digest)


def copy(store: ObjectStore, source: str, target: str, content: bytes = b"hello") -> None:
    store.copy(source, target, content_type="text/plain", sha256=hashlib.sha256(content).hexdigest())


# MinIO may deny a request while another one removes the same folder; the sink tries such a request again.
_again_if_denied = Retrying(
    retry=retry_if_exception(lambda error: getattr(error, "code", "") == "AccessDenied"), stop=stop_after_attempt(5)
)


class ObjectStoreContract:
    """Derive a class with a fixture `store`: an ensured, empty ObjectStore."""

    def test_put_object_can_be_read(self, store: ObjectStore) -> None:
        put(store, "raw-files/text/2025/01/31/a.txt", b"hello")
        assert store.read("raw-files/text/2025/01/31/a.txt") == b"hello"
        assert store.sha256("raw-files/text/2025/01/31/a.txt") == HELLO_SHA256

    def test_empty_object_exists(self, store: ObjectStore) -> None:
        put(store, "empty", b"")
        assert store.read("empty") == b""
        assert list(store.keys("")) == ["empty"]

    def test_keys_may_contain_any_letters(self, store: ObjectStore) -> None:
        for key in ("手册/é 😀.txt", "a b+c%20&d=e.txt", "..a/b..", "-x"):
            put(store, key, key.encode())
            assert store.read(key) == key.encode()
        assert set(store.keys("")) == {"手册/é 😀.txt", "a b+c%20&d=e.txt", "..a/b..", "-x"}

    def test_put_replaces_an_object(self, store: ObjectStore) -> None:
        put(store, "a", b"a long first content")
        put(store, "a", b"hello")
        assert store.read("a") == b"hello"
        assert store.sha256("a") == HELLO_SHA256
        assert list(store.keys("")) == ["a"]

    def test_stream_larger_than_one_part_arrives_whole(self, store: ObjectStore) -> None:
        content = os.urandom(1024) * (17 * 1024) + b"end"
        put(store, "large", content)
        assert store.read("large") == content

    def test_stream_of_unknown_length_arrives_whole(self, store: ObjectStore) -> None:
        for content in (b"", b"hello", os.urandom(1024) * (33 * 1024) + b"end"):
            store.put("unknown", io.BytesIO(content), size_bytes=None, content_type="text/plain", sha256=None)
            assert store.read("unknown") == content

    def test_torn_stream_of_unknown_length_writes_nothing(self, store: ObjectStore) -> None:
        class Torn(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                return super().read(size) or self._tear()

            def _tear(self) -> bytes:
                raise PermissionError("torn")

        for size_bytes in (10, 33 * MIB):
            with pytest.raises(PermissionError, match="torn"):
                store.put("a", Torn(bytes(size_bytes)), size_bytes=None, content_type="text/plain", sha256=None)
        assert list(store.keys("")) == []

    def test_object_is_read_as_a_stream(self, store: ObjectStore) -> None:
        put(store, "folder/a", b"hello" * MIB)
        with store.open("folder/a") as stream:
            assert stream.read(7) == b"hellohe"
            assert hashlib.sha256(b"hellohe" + stream.read()).digest() == hashlib.sha256(b"hello" * MIB).digest()
            assert stream.read(1) == b""
        for key in ("nothing", "folder"):
            with pytest.raises(ObjectMissing, match=f"^object '{key}' is missing$"), store.open(key):
                pass

    def test_sizes_are_listed_as_keys_are(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/2", "b"):
            put(store, key, key.encode() * len(list(store.keys(""))))
        assert list(store.sizes("")) == [("a/1", 0), ("a/2", 3), ("b", 2)]
        assert list(store.sizes("a/", after="a/1")) == [("a/2", 3)]
        assert list(store.sizes("c")) == []

    def test_reader_never_sees_half_an_object(self, store: ObjectStore) -> None:
        contents = {bytes([letter]) * (3 * MIB) for letter in b"abc"}
        put(store, "a", b"a" * (3 * MIB))
        done = threading.Event()

        def read() -> set[bytes]:
            seen = {store.read("a")}
            while not done.is_set():
                seen.add(store.read("a"))
            return seen

        with ThreadPoolExecutor(1) as pool:
            reader = pool.submit(read)
            try:
                for letter in b"bcabcabca":
                    put(store, "a", bytes([letter]) * (3 * MIB))
            finally:
                done.set()
            assert reader.result() <= contents

    def test_absent_objects_are_missing(self, store: ObjectStore) -> None:
        put(store, "folder/a", b"x")
        for key in ("nothing", "folder", "folder/b", "folder/a/b"):
            with pytest.raises(ObjectMissing, match=f"^object '{key}' is missing$"):
                store.read(key)
            with pytest.raises(ObjectMissing, match=f"^object '{key}' is missing$"):
                copy(store, key, "copied")
            assert store.sha256(key) is None
        assert list(store.keys("")) == ["folder/a"]

    def test_copy_is_independent_of_its_source(self, store: ObjectStore) -> None:
        put(store, "a", b"hello")
        put(store, "there/b", b"replaced by the copy")
        copy(store, "a", "there/b")
        copy(store, "a", "there/b")
        put(store, "a", b"changed since")
        assert (store.read("a"), store.read("there/b")) == (b"changed since", b"hello")
        store.remove(["a"])
        assert store.read("there/b") == b"hello"
        assert store.sha256("there/b") == HELLO_SHA256

    def test_copy_to_itself_changes_nothing(self, store: ObjectStore) -> None:
        put(store, "a", b"hello")
        copy(store, "a", "a")
        assert store.read("a") == b"hello"
        assert list(store.keys("")) == ["a"]

    def test_keys_are_listed_in_order_and_by_prefix(self, store: ObjectStore) -> None:
        for key in ("b", "a/2", "a/10", "a/1/x", "ab", "a.b", "a"):
            if key != "a":  # a key cannot be a folder and a file
                put(store, key, b"")
        assert list(store.keys("")) == ["a.b", "a/1/x", "a/10", "a/2", "ab", "b"]
        assert list(store.keys("a")) == ["a.b", "a/1/x", "a/10", "a/2", "ab"]
        assert list(store.keys("a/")) == ["a/1/x", "a/10", "a/2"]
        assert list(store.keys("a/1")) == ["a/1/x", "a/10"]
        assert list(store.keys("a/1/")) == ["a/1/x"]
        assert list(store.keys("a/1/x")) == ["a/1/x"]
        assert list(store.keys("c")) == []
        assert list(store.keys("c/d/")) == []

    def test_keys_are_listed_from_one_on(self, store: ObjectStore) -> None:
        for key in ("a.b", "a/1/x", "a/10", "a/2", "ab", "b"):
            put(store, key, b"")
        assert list(store.keys("", after="a/1/x")) == ["a/10", "a/2", "ab", "b"]
        assert list(store.keys("a/", after="a/1")) == ["a/1/x", "a/10", "a/2"]
        assert list(store.keys("a/1", after="a/1/x")) == ["a/10"]
        assert list(store.keys("a", after="aa")) == ["ab"]
        assert list(store.keys("a", after="b")) == []

    def test_keys_are_listed_with_the_time_of_their_write(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/2", "b"):
            put(store, key, b"")
        (first, began), (second, ended) = store.written_at("a/")
        assert (first, second) == ("a/1", "a/2")
        assert began <= ended
        assert abs(datetime.now(UTC) - began) < timedelta(minutes=1)  # the server runs on this machine
        assert list(store.written_at("c")) == []

    def test_removing_absent_objects_is_no_error(self, store: ObjectStore) -> None:
        for key in ("folder/a", "folder/b", "c"):
            put(store, key, b"x")
        store.remove(["folder/a", "nothing", "folder/nothing", "no/folder/at/all", "folder", "c/d", "c"])
        store.remove([])
        assert list(store.keys("")) == ["folder/b"]

    def test_more_objects_than_one_request_takes_are_removed(self, store: ObjectStore) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: put(store, f"many/{number:04d}", b""), range(1_100)))
        store.remove(f"many/{number:04d}" for number in range(1, 1_100))
        assert list(store.keys("")) == ["many/0000"]

    def test_ensure_keeps_existing_objects(self, store: ObjectStore) -> None:
        put(store, "temp/upload_1/file", b"hello")
        store.ensure()
        assert store.read("temp/upload_1/file") == b"hello"

    def test_short_stream_is_refused_and_the_old_object_stays(self, store: ObjectStore) -> None:
        put(store, "a", b"hello")
        with pytest.raises(OSError, match="3"):
            store.put("a", io.BytesIO(b"abc"), size_bytes=4, content_type="text/plain", sha256=None)
        assert store.read("a") == b"hello"

    def test_stream_error_is_raised_and_nothing_is_written(self, store: ObjectStore) -> None:
        class Torn:
            def read(self, size: int = -1, /) -> bytes:
                raise PermissionError("torn")

        with pytest.raises(PermissionError, match="torn"):
            store.put("a", Torn(), size_bytes=4, content_type="text/plain", sha256=None)
        assert list(store.keys("")) == []

    def test_concurrent_puts_and_removes_in_one_folder_are_independent(self, store: ObjectStore) -> None:
        """Each thread has its own keys; the folder becomes empty and is removed many times."""

        def work(thread: int) -> list[bytes]:
            read = []
            for turn in range(100):
                key = f"raw-files/text/{thread}-{turn % 2}"
                _again_if_denied(put, store, key, f"{thread} {turn}".encode())
                read.append(_again_if_denied(store.read, key))
                _again_if_denied(store.remove, [key])
            put(store, f"raw-files/text/{thread}", b"kept")
            return read

        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.00001)  # seconds: switches threads in almost every line
        try:
            with ThreadPoolExecutor(6) as pool:
                results = list(pool.map(work, range(6)))
        finally:
            sys.setswitchinterval(interval)
        assert results == [[f"{thread} {turn}".encode() for turn in range(100)] for thread in range(6)]
        assert list(store.keys("")) == [f"raw-files/text/{thread}" for thread in range(6)]

    @pytest.mark.parametrize(
        "key", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a//b", "a/./b", "./a", ".", "..", "\udcff"]
    )
    def test_key_that_is_no_plain_path_is_refused(self, store: ObjectStore, key: str) -> None:
        with pytest.raises(ValueError, match=r"key|name|path|surrogates"):
            put(store, key, b"x")
        assert list(store.keys("")) == []
