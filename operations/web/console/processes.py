"""The processes that work on the system: members of the consumer groups, or the one `rag-outbox run` of a folder."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from operations.monitoring.backlog import GroupBacklog


@dataclass(frozen=True)
class ProcessRow:
    """`kind` is relay, consumer or run; `parts` are its lanes or partitions; None for all of them."""

    kind: str
    name: str
    group: str
    parts: str | None


def of_groups(groups: Mapping[str, GroupBacklog]) -> list[ProcessRow]:
    """That of the relays is the first group."""
    return [
        ProcessRow("relay" if number == 0 else "consumer", member, group, _ranges(parts))
        for number, (group, found) in enumerate(groups.items())
        for member, parts in sorted(found.assigned.items())
    ]


def of_folder(data_dir: Path) -> list[ProcessRow]:
    """The `rag-outbox run` that holds a data folder, if it is alive."""
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
        by = json.loads((data_dir / "run.json").read_text())
        with suppress(PermissionError):  # it is alive, and of another user
            os.kill(int(by["pid"]), 0)
        return [ProcessRow("run", f"{by['pid']}", str(by["since"]), None)]
    return []


def _ranges(parts: Sequence[int]) -> str:
    """For instance 0–3, 7."""
    return ", ".join(_walk_ranges(sorted(parts)))


def _walk_ranges(numbers: Sequence[int]) -> Iterator[str]:
    first = previous = None
    for number in [*numbers, None]:
        if first is not None and previous is not None and number != previous + 1:
            yield f"{first}" if first == previous else f"{first}–{previous}"
            first = None
        if first is None:
            first = number
        previous = number
