"""Starts, stops and kills the processes of the services profile: `rag-outbox relay` and `rag-outbox consume`."""

import json
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, MemberDescription, OffsetSpec  # type: ignore[attr-defined]  # no __all__
from sqlalchemy import Engine
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from schema.database.connection import connect, reading
from schema.database.history import read_identity
from schema.database.tables import LANES
from schema.kafka.names import Names
from schema.sinks import SINKS
from tests.support.commands import COMMAND, Folder
from tests.support.pipeline import DIMENSION, MODEL
from tests.support.servers import Servers
from tests.support.waiting import wait_for

_LOG_CHARACTERS = 4_000  # shown of each process when a test fails
_END_SECONDS = 60


class Process:
    """One process. Its stderr goes to a file, which a failed test shows."""

    def __init__(self, folder: Folder, name: str, arguments: tuple[str, ...], settings: Mapping[str, str]) -> None:
        self.name = name
        self.arguments = arguments
        self.settings = settings
        folder.path.mkdir(parents=True, exist_ok=True)  # `init` makes it only in the embedded profile
        self._log, self._out = (folder.path / f"{name}.{kind}" for kind in ("log", "json"))
        with self._log.open("wb") as log, self._out.open("wb") as out:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments, *(["--json"] if arguments != ("monitor",) else [])],
                env=folder.environment(kafka_client_id=name, **settings),
                cwd=folder.path,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
            )

    @property
    def does(self) -> str:
        """`relay`, `monitor`, or the name of the sink."""
        return self.arguments[-1]

    @property
    def status(self) -> int | None:
        return self._process.poll()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def facts(self) -> dict[str, Any]:
        """The JSON object that it printed."""
        decoded: dict[str, Any] = json.loads(self._out.read_text())
        return decoded

    @property
    def events(self) -> int:
        """The number of events that it reports as published or applied; it must have ended with status 0."""
        assert self.status == 0, f"{self.name} ended with {self.status}"
        return int(json.loads(self._out.read_text())["published" if self.does == "relay" else "events"])

    def kill(self) -> None:
        self._send(signal.SIGKILL)
        self._process.wait(_END_SECONDS)

    def terminate(self, *, status: int = 0, may_be_forced: bool = False) -> float:
        """Send SIGTERM; it must end with this status. Returns the seconds until its end.

        With `may_be_forced` it may also have ended itself because a call hung.
        """
        began = time.monotonic()
        self._send(signal.SIGTERM)
        found = self._process.wait(_END_SECONDS)
        assert found == status or (may_be_forced and "stop_forced" in self.log), self.name
        return time.monotonic() - began

    def pause(self) -> None:
        """Send SIGSTOP; returns when all its threads are stopped."""
        self._send(signal.SIGSTOP)
        tasks = Path(f"/proc/{self._process.pid}/task")
        wait_for(
            lambda: all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir()),
            f"{self.name} to stop",
        )

    def go_on(self) -> None:
        self._send(signal.SIGCONT)

    def end(self) -> None:
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait(_END_SECONDS)

    def last_words(self) -> str:
        return f"--- {self.name}, status {self.status}\n{self.log[-_LOG_CHARACTERS:]}"

    def _send(self, number: signal.Signals) -> None:
        assert self.status is None, f"{self.name} has ended with {self.status}"
        self._process.send_signal(number)


class Services:
    """The processes of one system, and their state in Kafka."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.names = Names(folder.settings["namespace"], _system_id(folder))
        self.processes: list[Process] = []
        self._admin = self._connected()

    def start(self, *arguments: str, **settings: str) -> Process:
        """Start `rag-outbox relay`, `rag-outbox consume SINK` or `rag-outbox monitor`."""
        process = Process(self.folder, f"{arguments[-1]}-{len(self.processes) + 1}", arguments, settings)
        self.processes.append(process)
        return process

    def relay(self, **settings: str) -> Process:
        return self.start("relay", **settings)

    def consumer(self, sink: str, **settings: str) -> Process:
        return self.start("consume", sink, **settings)

    def owned(self, process: Process) -> set[int]:
        """The lanes of a relay, or the partitions of a consumer, that Kafka has assigned to the process."""
        group = self.names.relays_group if process.does == "relay" else self.names.sink_group(process.does)
        members = self._members(group)
        return {
            partition.partition
            for member in members
            if member.client_id == process.name
            for partition in member.assignment.topic_partitions
        }

    def _connected(self) -> AdminClient:
        servers = self.folder.settings["kafka_bootstrap_servers"]
        return AdminClient({"bootstrap.servers": servers, "log_level": 0})  # tests stop servers

    def _members(self, group: str) -> list[MemberDescription]:
        """Asks again while the broker is starting or busy."""
        slow = retry_if_exception(lambda error: isinstance(error, KafkaException) and _may_answer_later(error))
        for attempt in Retrying(retry=slow, wait=wait_fixed(0.2), stop=stop_after_delay(_END_SECONDS), reraise=True):
            with attempt:
                try:
                    found = self._admin.describe_consumer_groups([group], request_timeout=5.0)[group].result()
                except KafkaException:  # a client that connected to a starting broker may never recover
                    self._admin = self._connected()
                    raise
        return list(found.members)

    def in_transaction(self) -> bool:
        """Whether the topic has events of an open transaction."""
        name = self.names.documents_topic
        partitions = self._admin.list_topics(name).topics[name].partitions
        latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        asked = {TopicPartition(name, partition): latest for partition in partitions}
        ends = []
        for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
            found = self._admin.list_offsets(asked, isolation_level=isolation)
            ends.append({partition.partition: future.result().offset for partition, future in found.items()})
        return ends[0] != ends[1]

    def offsets_in_transaction(self) -> bool:
        """Whether an open transaction has offsets of lanes."""
        lanes = [TopicPartition(self.names.lanes_topic, lane) for lane in range(LANES)]
        asked = ConsumerGroupTopicPartitions(self.names.relays_group, lanes)
        [found] = self._admin.list_consumer_group_offsets([asked], require_stable=True, request_timeout=1).values()
        try:
            return any(lane.error is not None for lane in found.result().topic_partitions)
        except KafkaException as error:
            if error.args[0].code() not in {KafkaError._TIMED_OUT, KafkaError.UNSTABLE_OFFSET_COMMIT}:
                raise
            return True

    def finish(self) -> Counter[str]:
        """Send SIGTERM to all running processes. Returns the events per relay and sink of those with status 0."""
        for process in self.processes:
            if process.status is None:
                process.terminate()
        done = Counter(dict.fromkeys(("relay", *SINKS), 0))
        for process in self.processes:
            if process.status == 0:
                done[process.does] += process.events
        return done


@contextmanager
def services(folder: Folder) -> Iterator[Services]:
    """Processes that are killed at the end of the context; a failed test shows their logs."""
    some = Services(folder)
    try:
        yield some
    except BaseException as error:
        for process in some.processes:
            error.add_note(process.last_words())
        raise
    finally:
        for process in some.processes:
            process.end()


def _system_id(folder: Folder) -> str:
    engine = connect(folder.settings["database_url"])
    try:
        with reading(engine) as connection:
            return read_identity(connection).system_id
    finally:
        engine.dispose()


def _may_answer_later(error: KafkaException) -> bool:
    return error.args[0].code() in {
        KafkaError._TIMED_OUT,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }


def services_folder(path: Path, engine: Engine, servers: Servers, namespace: str, **settings: str) -> Folder:
    """The settings of processes on this database and the shared Kafka."""
    return Folder(
        path,
        database_url=engine.url.render_as_string(hide_password=False),
        kafka_bootstrap_servers=servers.kafka,
        namespace=namespace,
        embedding_model=MODEL,
        vector_dimension=str(DIMENSION),
        **settings,
    )
