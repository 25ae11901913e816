"""Kafka, from its jars in Maven: one node that is both broker and controller (KRaft)."""

import base64
import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from compose.native import maven, ports, process, tools, versions
from compose.native.cache import Cache
from compose.native.errors import Unavailable
from compose.native.ports import HOST
from compose.native.process import Process
from compose.native.state import State

KEY = f"kafka-{versions.KAFKA}-log4j-{versions.KAFKA_LOG4J}"
JAVA = 17  # the oldest that a broker of this version runs on

ARTIFACTS = (
    f"org.apache.kafka:kafka_{versions.KAFKA_SCALA}",
    "org.apache.kafka:kafka-tools",
    f"org.apache.logging.log4j:log4j-slf4j-impl:{versions.KAFKA_LOG4J}",  # without it the broker logs nothing
)

PROPERTIES = """process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=CLIENTS://{host}:{port},CONTROLLER://{host}:{controller}
advertised.listeners=CLIENTS://{host}:{port}
listener.security.protocol.map=CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=CLIENTS
controller.listener.names=CONTROLLER
log.dirs={logs}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=8
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

LOGGING = """rootLogger.level=INFO
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
"""


class Kafka:
    """A broker without authentication on the loopback interface."""

    name = "kafka"
    version = versions.KAFKA
    port_names: tuple[str, ...] = ("port", "controller")
    start_seconds = 60.0

    def __init__(self, cache: Cache, state: State) -> None:
        self._cache = cache
        self._state = state
        self._home = state.folder / self.name
        self.log = self._home / "kafka.log"

    def fetch(self) -> None:
        program()
        maven.fetch(self._cache, self.name, KEY, versions.KAFKA, ARTIFACTS)

    def start(self) -> Process:
        self._home.mkdir(parents=True, exist_ok=True)
        properties = self._home / "server.properties"
        record = self._state.record(self.name)
        properties.write_text(PROPERTIES.format(host=HOST, logs=self._home / "data", **record.ports))
        (self._home / "log4j2.properties").write_text(LOGGING)
        if not (self._home / "cluster-id").exists():
            tools.remove(self._home / "data")  # left by a format that was interrupted
            cluster = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
            command = [*self._java("-Xmx256m"), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}"]
            tools.run(self.name, [*command, f"--config={properties}"], self._home / "format.log")
            (self._home / "cluster-id").write_text(cluster)
        command = [*self._java("-Xms256m", "-Xmx1g"), "kafka.Kafka", properties]
        return process.spawn(command, self._home, self.log, {})

    def ready(self) -> str | None:
        port = self._state.record(self.name).ports["port"]
        if not ports.answers(port):  # librdkafka would complain on stderr
            return f"nothing listens on port {port}"
        try:
            admin = AdminClient({"bootstrap.servers": self._bootstrap(), "log_level": 0})
            cluster = admin.list_topics(timeout=5.0).cluster_id
        except KafkaException as error:
            return str(error)
        ours = (self._home / "cluster-id").read_text()
        return None if cluster == ours else f"the broker on port {port} belongs to another cluster"

    def stop(self, running: Process) -> bool:
        return process.stop(running, patience_seconds=20.0)

    def url(self) -> str:
        return self._bootstrap()

    def environment(self) -> dict[str, str]:
        return {"RAG_OUTBOX_KAFKA_BOOTSTRAP_SERVERS": self._bootstrap()}

    def _bootstrap(self) -> str:
        return f"{HOST}:{self._state.record(self.name).ports['port']}"

    def _java(self, *options: str) -> list[str | Path]:
        return [
            program(),
            *options,
            f"-Dlog4j2.configurationFile={self._home}/log4j2.properties",
            "-classpath",
            f"{self._cache.folder(KEY)}/jars/*",
        ]


def program() -> str:
    """The path of a Java that is new enough. Raises Unavailable."""
    home = os.environ.get("JAVA_HOME")
    program = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    hint = f"Java {JAVA} or later (on Debian: openjdk-{JAVA}-jre-headless)"
    if program is None:
        raise Unavailable(f"kafka: java not found{f' in JAVA_HOME={home}' if home else ''}; install {hint}")
    output = subprocess.run([program, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', output.stderr + output.stdout)
    if found is None or int(found[1]) < JAVA:
        raise Unavailable(f"kafka: {program} is too old; install {hint}")
    return program
