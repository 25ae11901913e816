"""What the commands on dead letters print."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from operations.cli.output import Output

if TYPE_CHECKING:
    from operations.dead_letters.letters import Letter

_REASON_CHARACTERS = 80


@dataclass
class Done:
    """What a command did, for its output and its exit status."""

    output: Output
    verb: str
    participle: str
    dry_run: bool
    done: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def succeed(self, letter: "Letter", what: str, **facts: Any) -> None:
        self.done.append({"id": letter.id, "doc_id": letter.doc_id, "stage": letter.row.stage, **facts})
        verb = f"Would {self.verb}" if self.dry_run else self.participle.capitalize()
        self.lines.append(f"{verb} {letter.id}: {_name(letter)}{what and f', {what}'}")

    def fail(self, letter: "Letter", error: str) -> None:
        self.failed.append({"id": letter.id, "doc_id": letter.doc_id, "stage": letter.row.stage, "error": error})
        self.lines.append(f"Cannot {self.verb} {letter.id}: {_name(letter)}: {clean(error)}")

    def finish(self) -> None:
        """Print it. Raises typer.Exit(1) if something failed."""
        facts = {self.participle: self.done, "failed": self.failed, "dry_run": self.dry_run}
        self.output.result(facts, *(self.lines or ["No dead letters."]))
        if self.failed:
            raise typer.Exit(1)


def list_facts(letter: "Letter") -> dict[str, Any]:
    row = letter.row
    return {
        "id": letter.id,
        "stage": row.stage,
        "doc_id": letter.doc_id,
        "version": row.aggregate_version,
        "reason": row.error,
        "attempts": row.attempts,
        "time": f"{row.dead_at:%Y-%m-%dT%H:%M:%SZ}",
        "state": letter.state,
    }


def more_facts(letter: "Letter") -> dict[str, Any]:
    row = letter.row
    return {
        "event_id": row.event_id,
        "event_type": row.event_type,
        "content_type": row.content_type,
        "kafka_position": row.kafka_position,
        "closed_at": None if row.closed_at is None else f"{row.closed_at:%Y-%m-%dT%H:%M:%SZ}",
        "closed_by": row.closed_by,
        "closed_reason": row.closed_reason,
        "headers": row.headers if isinstance(row.headers, dict) else {},
    }


def format_table(found: Sequence["Letter"]) -> Iterator[str]:
    if not found:
        return
    names = ("id", "stage", "doc_id", "version", "attempts", "time", "state", "reason")
    rows = [[clean(str(list_facts(letter)[name])) for name in names] for letter in found]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        reason = row[-1] if len(row[-1]) <= _REASON_CHARACTERS else f"{row[-1][: _REASON_CHARACTERS - 1]}…"
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*cells, reason])


def _name(letter: "Letter") -> str:
    return f"{clean(letter.doc_id)} version {letter.row.aggregate_version} in {letter.row.stage}"


def clean(text: str) -> str:
    """One line without control characters: an event may hold anything."""
    return "".join(one if one.isprintable() else " " for one in text)
