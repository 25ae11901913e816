"""How fast one relay drains the outbox: events of 1 KiB, ordered, exactly once.

The rate is between the broker's times of the first and the last event. Every run is verified.
"""

import sys

from sqlalchemy import text

from benchmarks import report, topic
from benchmarks.system import System, servers, system, wait_until

EVENT_BYTES = 1_024


def main() -> None:
    options = report.arguments(
        __doc__, events=(200_000, 50_000, "events to drain"), rounds=(3, 1, "rounds"), documents=(10_000, 5_000, "")
    )
    found = servers(options.servers)
    rates = []
    for _ in range(options.rounds):
        with system(found) as some:
            topic.append(some.engine, options.events, EVENT_BYTES, options.documents)
            with some.running("relay"):
                wait_until(lambda some=some: empty(some), "an empty outbox")  # type: ignore[misc]
            seen = topic.verified(some.kafka, some.names.documents_topic, options.events, options.documents)
        rates.append(options.events / (max(one.at for one in seen) - min(one.at for one in seen)))
        sys.stderr.write(f"{rates[-1]:,.0f} events/s\n")
    report.report("relay", "events/s", {"rag-outbox relay": rates}, keep=options.keep, events=options.events)


def empty(some: System) -> bool:
    with some.engine.connect() as connection:
        return connection.execute(text("SELECT id FROM outbox ORDER BY id DESC LIMIT 1")).first() is None


if __name__ == "__main__":
    main()
