"""Scores of a strategy from the ranks of its answers, and how sure the difference to the default strategy is."""

from collections.abc import Sequence

import numpy as np

from benchmarks.chunking.measure import BEST, Answer


def score(answers: Sequence[Answer]) -> dict[str, float]:
    """Recall and MRR; an answer that no chunk holds was not found."""
    if not answers:
        return {"questions": 0}
    ranks = np.array([answer.rank for answer in answers])
    found = ranks > 0
    return {
        "questions": len(answers),
        "recall@1": _round(ranks == 1),
        f"recall@{BEST}": _round(found & (ranks <= BEST)),
        "mrr": _round(np.divide(1.0, ranks, out=np.zeros(len(ranks)), where=found)),
        "read": _round(np.array([answer.is_read for answer in answers])),
    }


def gain(answers: Sequence[Answer], others: Sequence[Answer]) -> tuple[float, float]:
    """How much the recall of `answers` is above that of `others` to the same questions, and its standard error."""
    differences = [float(_is_found(one)) - float(_is_found(other)) for one, other in zip(answers, others, strict=True)]
    if not differences:
        return 0.0, 0.0
    return float(np.mean(differences)), float(np.std(differences) / np.sqrt(len(differences)))


def _is_found(answer: Answer) -> bool:
    return 0 < answer.rank <= BEST


def _round(values: "np.ndarray[tuple[int], np.dtype[np.generic]]") -> float:
    return round(float(values.mean()), 4)
