"""A store or Kafka goes silent, without a reset, as if its host had vanished: work goes on once the network heals."""

import sys
import time
from contextlib import ExitStack

import pytest

from tests.chaos.conftest import System
from tests.chaos.test_restarts import wait_until_in_step, write
from tests.support import kafka
from tests.support.corpus import Written
from tests.support.forwarder import Forwarder, forward
from tests.support.kafka_forwarder import KafkaForwarder
from tests.support.services import Process, Services, services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]

LIMIT_SECONDS = "2"
STOP_SECONDS = 25.0
SETTINGS = {"milvus": "milvus_uri", "minio": "object_store"}
SESSION = {"kafka_session_timeout_ms": "6000"}
_FORCED_SECONDS = 10.0  # until a busy machine has noticed the end


def report(what: str, began: float) -> None:
    sys.stdout.write(f"{what}: {time.monotonic() - began:.1f} seconds\n")


def terminate(process: Process) -> None:
    """A call of the Kafka client may hang: then the process ends by force, soon after its limit."""
    seconds = process.terminate(may_be_forced=True)
    sys.stdout.write(f"{process.name} ended {seconds:.1f} seconds after SIGTERM\n")
    assert seconds < STOP_SECONDS + _FORCED_SECONDS


def test_consumers_go_on_after_their_stores_were_silent(system: System) -> None:
    living: dict[str, Written] = {}
    with ExitStack() as stack:
        some = stack.enter_context(services(system.folder))
        some.relay()
        silent: dict[str, tuple[Forwarder, Process]] = {}
        for sink, setting in SETTINGS.items():
            forwarder, uri = stack.enter_context(forward(system.folder.settings[setting]))
            consumer = some.consumer(sink, **{setting: uri, "store_timeout_seconds": LIMIT_SECONDS})
            silent[sink] = forwarder, consumer
        living |= write(system, "first")
        wait_until_in_step(system, some)

        for forwarder, _ in silent.values():
            forwarder.silence()
        living |= write(system, "silent")
        for sink, (_, consumer) in silent.items():
            failing = f"sink_failing sink={sink} seconds="
            wait_for(lambda consumer=consumer, failing=failing: failing in consumer.log, f"{sink} to fail")  # type: ignore[misc]
        for forwarder, _ in silent.values():
            forwarder.heal()
        began = time.monotonic()
        wait_until_in_step(system, some)
        report("in step after both stores healed", began)

        for forwarder, _ in silent.values():
            forwarder.silence()
        living |= write(system, "stopped")
        for sink, (_, consumer) in silent.items():
            wait_for(lambda consumer=consumer: consumer.log.count("sink_failing ") >= 2, f"{sink} to fail again")  # type: ignore[misc]
            terminate(consumer)
        for sink in silent:
            some.consumer(sink)
        wait_for(lambda: system.stores.pending() == 0, "every document to be completed")
        some.finish()
    system.stores.assert_holds(living, dict.fromkeys(living, 1))


def test_processes_go_on_after_kafka_was_silent(system: System) -> None:
    living: dict[str, Written] = {}
    servers = system.folder.settings["kafka_bootstrap_servers"]
    with ExitStack() as stack:
        some = stack.enter_context(services(system.folder))
        one, other = (stack.enter_context(KafkaForwarder.before(servers)) for _ in range(2))
        relays = [some.relay(kafka_bootstrap_servers=each.servers, **SESSION) for each in (one, other)]
        consumers = [some.consumer("milvus", kafka_bootstrap_servers=each.servers, **SESSION) for each in (one, other)]
        some.consumer("minio")
        living |= write(system, "first")
        for process in (*relays, *consumers):
            wait_until_owning(some, process)
        wait_until_in_step(system, some)

        one.silence()  # for one relay and one consumer
        began = time.monotonic()
        living |= write(system, "silent")
        wait_until_in_step(system, some)
        report("in step without one relay and one consumer", began)
        one.heal()
        began = time.monotonic()
        for process in (relays[0], consumers[0]):
            wait_until_owning(some, process)
            report(f"{process.name} works again", began)

        one.silence()  # for all
        other.silence()
        living |= write(system, "all")
        began = time.monotonic()
        wait_for(
            lambda: any("librdkafka" in each.log for each in (*relays, *consumers)), "a time-out", timeout_seconds=90
        )
        report("silence noticed", began)
        one.heal()
        other.heal()
        began = time.monotonic()
        wait_until_in_step(system, some)
        report("in step after Kafka healed for all", began)
        for process in (*relays, *consumers):
            lines = [line for line in process.log.splitlines() if "librdkafka" in line]
            assert len(lines) < 60, lines

        one.silence()
        for process in (relays[0], consumers[0]):
            terminate(process)
        one.heal()
        some.finish()
    system.stores.assert_holds(living, dict.fromkeys(living, 1))
    published = kafka.topic(system.servers, some.names.documents_topic)
    kafka.assert_exactly_once_and_in_order(published, dict.fromkeys(living, 1))


def wait_until_owning(some: Services, process: Process) -> None:
    wait_for(lambda: some.owned(process), f"{process.name} to own lanes or partitions", timeout_seconds=120)
