"""`make simulate`: run schedules on all cores, or one seed; `--mutants`: check that each mutant is caught.

With `--keep`, the result of all schedules is written to RESULT.md.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from tests.simulation.mutants import MUTANTS
from tests.simulation.simulation import Result, run

_RESULT = Path(__file__).parent / "RESULT.md"
_MUTANT_SCHEDULES = 2_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this seed alone and print its trace")
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--mutant", help="the status is 0 if one of the schedules catches this one")
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    if given.seed is not None:
        return _show(run(given.seed))
    seeds = range(given.first, given.first + given.schedules)
    if given.mutant is not None:
        return int(find_seed(given.mutant, seeds) is None)
    if given.mutants:
        return _run_mutants()
    return _run_schedules(seeds, keep=given.keep)


def find_seed(name: str, seeds: Sequence[int]) -> int | None:
    """The first of these seeds that catches the mutant."""
    for seed in seeds:
        with MUTANTS[name]():
            failure = run(seed).failure
        if failure:
            if failure.startswith(("TypeError", "AttributeError", "NameError", "ValueError")):
                raise TypeError(f"the mutant {name} no longer fits the code: {failure}")
            return seed
    return None


def _show(result: Result) -> int:
    print("\n".join(result.trace))
    print(f"seed {result.seed}: {result.steps} steps, {dict(result.seen)}")
    print(describe(result) if result.failure else "passed")
    return int(bool(result.failure))


def describe(result: Result) -> str:
    """A failure in a few lines, with the command that repeats it."""
    lines = [*result.trace, f"{result.failure}", f"repeat it with: make simulate SEED={result.seed}"]
    return "\n".join(lines)


def _run_schedules(seeds: Sequence[int], *, keep: bool) -> int:
    began = time.monotonic()
    seen: Counter[str] = Counter()
    steps = failed = 0
    with get_context("spawn").Pool(os.cpu_count()) as pool:
        for result in pool.imap_unordered(run, seeds, chunksize=10):
            steps += result.steps
            seen.update(name for name, count in result.seen.items() if count)
            if result.failure:
                failed += 1
                print(describe(result), "", sep="\n", flush=True)
    seconds = time.monotonic() - began
    lines = list(_report(seeds, steps, failed, seconds, seen))
    print("\n".join(lines))
    if keep:
        _RESULT.write_text("\n".join(lines) + "\n")
    return int(failed > 0)


def _report(seeds: Sequence[int], steps: int, failed: int, seconds: float, seen: Counter[str]) -> Iterator[str]:
    yield "# Last result of `make simulate`"
    yield ""
    yield f"{datetime.now(UTC):%Y-%m-%d}: {len(seeds):,} schedules (seeds {seeds[0]} to {seeds[-1]}), {failed} failed."
    yield f"{steps:,} steps, {steps / len(seeds):,.0f} per schedule; {seconds:,.0f} seconds on {os.cpu_count()} cores,"
    yield f"{60 * len(seeds) / seconds:,.0f} schedules per minute."
    yield ""
    yield "| situation | schedules that reached it |"
    yield "|---|---|"
    for name, count in seen.most_common():
        yield f"| {name} | {count:,} |"


def _run_mutants() -> int:
    missed = 0
    for name in MUTANTS:
        seed = find_seed(name, range(_MUTANT_SCHEDULES))
        missed += seed is None
        print(f"| {name} | {'missed' if seed is None else seed} |", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
