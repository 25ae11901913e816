"""What a run has found so far, in bounded memory: all counts, and the first differences themselves."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from operations.reconcile.difference import HARMLESS, Difference, Kind

KEPT = 10_000  # differences that are kept whole; the others are only counted


@dataclass
class Findings:
    """`compared` counts keys per store, those of the database and of the sink together once."""

    compared: Counter[str] = field(default_factory=Counter)
    waiting: Counter[tuple[str, str]] = field(default_factory=Counter)  # documents, by sink and state
    suspects: int = 0
    counts: Counter[tuple[str, Kind]] = field(default_factory=Counter)  # by store and kind
    kept: list[Difference] = field(default_factory=list)

    @property
    def total(self) -> int:
        """The number of differences, without those that do no harm."""
        return sum(count for (_, kind), count in self.counts.items() if kind not in HARMLESS)

    def add(self, differences: Iterable[Difference]) -> None:
        for one in differences:
            self.counts[one.store, one.kind] += 1
            if len(self.kept) < KEPT:
                self.kept.append(one)

    def to_facts(self) -> dict[str, Any]:
        """As JSON, for a run that continues later."""
        return {
            "compared": dict(self.compared),
            "waiting": [[*key, count] for key, count in self.waiting.items()],
            "suspects": self.suspects,
            "counts": [[*key, count] for key, count in self.counts.items()],
            "kept": [[one.store, one.kind, one.doc_id, one.key, one.detail, one.version] for one in self.kept],
        }

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Findings":
        return cls(
            Counter(facts["compared"]),
            Counter({(sink, state): count for sink, state, count in facts["waiting"]}),
            facts["suspects"],
            Counter({(store, kind): count for store, kind, count in facts["counts"]}),
            [Difference(*values) for values in facts["kept"]],
        )
