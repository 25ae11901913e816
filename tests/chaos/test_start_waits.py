"""A process that starts while its database or its store does not answer waits for it, and then does its work."""

import uuid
from pathlib import Path

import pytest

from schema.database.tables import LANES
from tests.chaos.conftest import System
from tests.support.commands import Folder
from tests.support.forwarder import forward
from tests.support.services import services
from tests.support.waiting import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(400)]

LIMITS = {"database_timeout_seconds": "2", "store_timeout_seconds": "2"}


def test_relay_that_starts_before_its_database_waits_for_it(system: System) -> None:
    with forward(system.folder.settings["database_url"]) as (forwarder, url), services(system.folder) as some:
        forwarder.silence()
        relay = some.start("relay", **LIMITS, database_url=url)
        wait_for(lambda: "start_waits for=database" in relay.log, "the relay to wait", timeout_seconds=120)
        forwarder.heal()
        wait_for(lambda: len(some.owned(relay)) == LANES, "the relay to own all lanes", timeout_seconds=120)
        assert "start_continues for=database" in relay.log


def test_consumer_that_starts_before_its_store_waits_for_it(system: System) -> None:
    with forward(system.folder.settings["object_store"]) as (forwarder, url), services(system.folder) as some:
        forwarder.silence()
        consumer = some.start("consume", "minio", **LIMITS, object_store=url)
        wait_for(lambda: "start_waits for=minio" in consumer.log, "the consumer to wait", timeout_seconds=120)
        forwarder.heal()
        wait_for(lambda: len(some.owned(consumer)) == LANES, "the consumer to own everything", timeout_seconds=120)
        assert "start_continues for=minio" in consumer.log


def test_run_that_starts_before_its_store_waits_for_it(system: System, tmp_path: Path) -> None:
    """The embedded profile with an object store on another machine."""
    given = {name: value for name, value in system.folder.settings.items() if name.startswith("object_store")}
    with forward(given["object_store"]) as (forwarder, url):
        given["object_store"] = url
        del given["object_store_bucket"]
        given |= {"profile": "embedded", "namespace": f"w{uuid.uuid4().hex[:8]}", "store_timeout_seconds": "2"}
        folder = Folder(tmp_path / "embedded", **given)
        folder.succeed("init")
        forwarder.silence()
        with folder.start("run", "--until-idle", "--give-up-seconds", "120") as running:
            wait_for(lambda: "trying again" in running.err, "the process to wait", timeout_seconds=60)
            forwarder.heal()
            ended = running.ended()
    assert ended.status == 0, ended
    assert "minio: " in ended.err


def test_process_that_waits_ends_on_sigterm(system: System) -> None:
    with forward(system.folder.settings["database_url"]) as (forwarder, url), services(system.folder) as some:
        forwarder.silence()
        relay = some.start("relay", **LIMITS, database_url=url)
        wait_for(lambda: "start_waits for=database" in relay.log, "the relay to wait", timeout_seconds=120)
        relay.terminate(status=1)
        assert "metadata database" in relay.log
