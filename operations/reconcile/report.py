"""What a run found, for a person, for a script and for the table `reconcile_reports`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from operations.reconcile.difference import DATABASE, Difference, Kind
from operations.reconcile.findings import Findings
from operations.reconcile.scope import Scope

_SHOWN = 100  # differences that the stored report names


@dataclass(frozen=True)
class Report:
    seconds: float
    scope: Scope
    findings: Findings

    @classmethod
    def of(cls, findings: Findings, scope: Scope, seconds: float) -> "Report":
        return cls(round(seconds, 3), scope, findings)

    @property
    def is_healthy(self) -> bool:
        return self.findings.total == 0

    @property
    def differences(self) -> Sequence[Difference]:
        """The first ones; `findings.counts` has all of them."""
        return self.findings.kept

    def to_facts(self, shown: int = _SHOWN) -> dict[str, Any]:
        found = self.findings
        waiting: dict[str, dict[str, int]] = {}
        for (sink, state), count in sorted(found.waiting.items()):
            waiting.setdefault(sink, {})[state] = count
        return {
            "healthy": self.is_healthy,
            "seconds": self.seconds,
            "sinks": list(self.scope.sinks),
            "sample": self.scope.sample,
            "compared": dict(sorted(found.compared.items())),
            "waiting": waiting,
            "suspects": found.suspects,
            "differences": found.total,
            "kinds": [
                {"store": store, "kind": kind, "count": count} for (store, kind), count in sorted(found.counts.items())
            ],
            "first": [
                {"store": one.store, "kind": one.kind, "doc_id": one.doc_id, "key": one.key, "detail": one.detail}
                for one in sorted(found.kept)[:shown]
            ],
            "recommendations": recommend(found),
        }


def recommend(findings: Findings) -> list[str]:
    """What to do, with the command to run, the most urgent first."""
    kinds: set[Kind] = {kind for _, kind in findings.counts}
    advice = []
    if (DATABASE, "stuck") in findings.counts:
        advice.append("Events wait in the outbox: start a relay (rag-outbox relay, or rag-outbox run without Kafka).")
    if kinds & {"missing", "stale", "orphaned", "doubled", "mismarked"} or (
        "stuck" in kinds and any(store != DATABASE for store, kind in findings.counts if kind == "stuck")
    ):
        advice.append("See what a repair would do: rag-outbox reconcile --repair. Then act: --repair --yes.")
    if kinds & {"incomplete", "lacking"}:
        advice.append("Write the incomplete and lacking documents again: no store has what they lack.")
    if "staged" in kinds:
        advice.append("Start a process that sweeps staged files: rag-outbox consume minio, or rag-outbox run.")
    if "foreign" in kinds:
        advice.append("Foreign objects do no harm. Move them to another bucket if they are yours.")
    if any(state == "failed" for _, state in findings.waiting):
        advice.append("A sink refused documents (rag-outbox status shows why): correct them and write them again.")
    if any(state in {"pending", "absent"} for _, state in findings.waiting):
        advice.append("Documents wait for a sink, and were not compared there: rag-outbox status shows the lag.")
    return advice
