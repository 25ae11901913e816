"""What metrics cost a relay: the same backlog with metrics, read every second, and without.

The rate is between the broker's times of the first and the last event. The sides alternate, and take turns in going
first. Every run is verified.
"""

import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from socket import create_server

from benchmarks import report, topic
from benchmarks.relay import EVENT_BYTES, empty
from benchmarks.system import PREFIX, servers, system, wait_until
from schema.threads import run_in_background

SIDES = ("relay with metrics", "relay without metrics")


def main() -> None:
    options = report.arguments(
        __doc__, events=(200_000, 50_000, "events to drain"), rounds=(6, 2, "rounds"), documents=(10_000, 5_000, "")
    )
    found = servers(options.servers)
    rates: dict[str, list[float]] = {label: [] for label in SIDES}
    for turn in range(options.rounds):
        for label in SIDES[:: -1 if turn % 2 else 1]:
            port = free_port() if label == SIDES[0] else 0
            with system(found) as some:
                topic.append(some.engine, options.events, EVENT_BYTES, options.documents)
                with some.running("relay", **{f"{PREFIX}METRICS_PORT": str(port)}), scraping(port):
                    wait_until(lambda: empty(some), "an empty outbox")
                seen = topic.verified(some.kafka, some.names.documents_topic, options.events, options.documents)
            rates[label].append(options.events / (max(one.at for one in seen) - min(one.at for one in seen)))
            sys.stderr.write(f"{label}: {rates[label][-1]:,.0f} events/s\n")
    against = {SIDES[0]: SIDES[1]}
    report.report("metrics", "events/s", rates, keep=options.keep, against=against, goal="0.98×", events=options.events)


def free_port() -> int:
    with create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def scraping(port: int) -> Iterator[None]:
    """Read the metrics every second, as Prometheus would; nothing without a port."""
    if not port:
        yield
        return
    read = []

    def scrape(stop: threading.Event) -> None:
        while not stop.wait(1.0):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    read.append(len(answer.read()))
            except OSError:
                continue  # it still starts

    with run_in_background(scrape, "scrape"):
        yield
    if not read:
        raise SystemExit("the relay served no metrics")


if __name__ == "__main__":
    main()
