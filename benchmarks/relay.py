"""How fast one relay drains an outbox of 1 KiB events, ordered and exactly once, compared with Debezium.

Debezium reads the same backlog from the binlog, at least once. The rate is between the broker's times of the first and
the last event. Every run is verified.
"""

import sys
from collections.abc import Callable, Mapping

from sqlalchemy import text

from benchmarks import debezium, report, topic
from benchmarks.system import System, servers, system, wait_until

EVENT_BYTES = 1_024


def main() -> None:
    options = report.arguments(
        __doc__, events=(200_000, 50_000, "events to drain"), rounds=(3, 1, "rounds"), documents=(10_000, 5_000, "")
    )
    found = servers(options.servers)
    drains: dict[str, Callable[[System, int, int], None]] = {"rag-outbox relay": ours}
    if not options.quick:
        drains["Debezium as it comes"] = theirs(debezium.AS_IT_COMES)
    drains["Debezium tuned"] = theirs(debezium.TUNED)
    rates: dict[str, list[float]] = {label: [] for label in drains}
    for turn in range(options.rounds):
        for label in list(drains)[:: -1 if turn % 2 else 1]:
            with system(found) as some:
                drains[label](some, options.events, options.documents)
                seen = topic.verified(some.kafka, some.names.documents_topic, options.events, options.documents)
            rates[label].append(options.events / (max(one.at for one in seen) - min(one.at for one in seen)))
            sys.stderr.write(f"{label}: {rates[label][-1]:,.0f} events/s\n")
    goal = "at least 2 × Debezium tuned, better 3"
    facts = {"events": options.events, "debezium": debezium.VERSION, "tuned": debezium.TUNED}
    report.report("relay", "events/s", rates, keep=options.keep, goal=goal, **facts)


def ours(some: System, events: int, documents: int) -> None:
    topic.append(some.engine, events, EVENT_BYTES, documents)
    with some.running("relay"):
        wait_until(lambda: empty(some), "an empty outbox")


def theirs(settings: Mapping[str, str]) -> Callable[[System, int, int], None]:
    def drain(some: System, events: int, documents: int) -> None:
        with debezium.connector(some, settings) as connector:
            with connector.stopped():
                topic.append(some.engine, events, EVENT_BYTES, documents)
            connector.wait_for(events)

    return drain


def empty(some: System) -> bool:
    with some.engine.connect() as connection:
        return connection.execute(text("SELECT id FROM outbox ORDER BY id DESC LIMIT 1")).first() is None


if __name__ == "__main__":
    main()
