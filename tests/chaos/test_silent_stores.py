"""A store or Kafka goes silent, without a reset, as if its host had vanished: work goes on once the network heals."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import pytest

from tests.chaos.conftest import System
from tests.chaos.test_restarts import wait_until_in_step, write
from tests.support.corpus import Written
from tests.support.forwarder import Forwarder
from tests.support.services import Process, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(300)]

TIMEOUT_SECONDS = "2"
STOP_SECONDS = 25.0


@contextmanager
def in_front_of(uri: str) -> Iterator[tuple[Forwarder, str]]:
    """A forwarder, and the URI through it."""
    parts = urlsplit(uri)
    with Forwarder.opened(parts.port or 0) as forwarder:
        yield forwarder, parts._replace(netloc=f"127.0.0.1:{forwarder.port}").geturl()


@pytest.mark.parametrize("sink", ["milvus", "minio"])
def test_consumer_goes_on_after_its_store_was_silent(system: System, sink: str) -> None:
    setting = {"milvus": "milvus_uri", "minio": "object_store"}[sink]
    living: dict[str, Written] = {}
    with ExitStack() as stack:
        some = stack.enter_context(services(system.folder))
        forwarder, uri = stack.enter_context(in_front_of(system.folder.settings[setting]))
        some.relay()
        some.consumer("minio" if sink == "milvus" else "milvus")
        silent = some.consumer(sink, **{setting: uri, "store_timeout_seconds": TIMEOUT_SECONDS})
        living |= write(system, "first")
        wait_until_in_step(system, some)

        forwarder.silence()
        living |= write(system, "silent")
        wait_for(lambda: f"sink_failing sink={sink} attempt=3 reason=" in silent.log, "three failed attempts")
        forwarder.heal()
        began = time.monotonic()
        wait_until_in_step(system, some)
        sys.stdout.write(f"{sink}: in step {time.monotonic() - began:.1f} seconds after the network healed\n")

        forwarder.silence()
        living |= write(system, "stopped")
        wait_for(lambda: silent.log.count("attempt=1 ") >= 2, "a failed attempt")
        seconds = silent.terminate()
        sys.stdout.write(f"{sink}: ended {seconds:.1f} seconds after SIGTERM\n")
        assert seconds < STOP_SECONDS
        forwarder.heal()
        some.consumer(sink)
        wait_for(lambda: system.stores.pending() == 0, "every document to be completed", timeout_seconds=60)
        some.finish()
    system.stores.assert_holds(living, dict.fromkeys(living, 1))


def owned(some: object, process: Process) -> int:
    return len(some.owned(process))  # type: ignore[attr-defined]


def test_others_take_over_from_processes_without_kafka(system: System) -> None:
    """Kafka is silent for one relay and one consumer."""
    living: dict[str, Written] = {}
    servers = system.folder.settings["kafka_bootstrap_servers"]
    with ExitStack() as stack:
        some = stack.enter_context(services(system.folder))
        forwarder, uri = stack.enter_context(in_front_of(f"kafka://{servers}"))
        del uri, forwarder, living
        assert some
