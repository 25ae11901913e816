"""Compare the chunk strategies by known-item retrieval on real files: `python -m benchmarks.chunking`.

The files come out of source distributions of packages (`sources.py`), or from a folder of your own. Every one goes
through the parts of the product: the extractor in its limited child process, each chunk strategy, and the built-in
embedder. The questions make themselves; `passages.py` says how, and why they favour no strategy. Each round asks about
other places of the same files.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import report
from benchmarks.chunking import sources
from benchmarks.chunking.files import KINDS, ReadFile, TooFewFiles, find_files, read_files, require_enough
from benchmarks.chunking.measure import BEST, DEFAULT, STRATEGIES, Answer, Searched, find_answers, search_with
from benchmarks.chunking.passages import QUESTION_KINDS, Item, choose_items
from benchmarks.chunking.scores import gain, score
from benchmarks.chunking.tables import print_rates, print_readings, print_scores
from producer.processing.embed.wordllama import WordLlamaEmbedder

_SEED = 20
_CONSOLE = Console(width=100)


def main() -> None:
    options = _read_options()
    load = os.getloadavg()
    try:
        folder = options.folder or sources.fetch(options.cache)
        paths = find_files(folder, options.files)
        least = (options.pdfs, options.others, options.texts)
        require_enough({kind: len(some) for kind, some in paths.items()}, *least)
        files, readings = read_files(paths, options.seconds)
        print_readings(_CONSOLE, readings)
        require_enough({kind: one.files for kind, one in readings.items()}, *least)
    except (TooFewFiles, sources.FetchFailed) as error:
        raise SystemExit(f"error: {error}") from error
    rounds: dict[str, list[float]] = {name: [] for name in STRATEGIES}
    items: list[tuple[str, Item]] = []  # with the kind of its file
    answers: dict[str, list[Answer]] = {name: [] for name in STRATEGIES}
    searched: dict[str, dict[str, float]] = {}
    for seed in range(_SEED, _SEED + options.rounds):
        asked = _ask(files, options.questions, seed, answers, searched)
        items += asked
        for name in STRATEGIES:
            rounds[name].append(score(answers[name][-len(asked) :])[f"recall@{BEST}"] if asked else 0.0)
    if not items:
        raise SystemExit("error: no file has a passage of running text that could be asked for")
    scores = {name: _score_groups(items, answers[name]) for name in STRATEGIES}
    gains = {name: gain(answers[name], answers[DEFAULT]) for name in STRATEGIES}
    print_rates(_CONSOLE, searched)
    print_scores(_CONSOLE, scores, gains)
    report.report(
        "chunking",
        f"recall@{BEST}",
        rounds,
        keep=options.keep,
        against=dict.fromkeys(STRATEGIES, DEFAULT),
        load_before=[round(one, 2) for one in load],
        load_after=[round(one, 2) for one in os.getloadavg()],
        embedder=WordLlamaEmbedder.model,
        reading={kind: one.facts for kind, one in readings.items()},
        searched=searched,
        scores=scores,
        gain_over_default={name: [round(one, 4) for one in pair] for name, pair in gains.items()},
    )


def _read_options() -> argparse.Namespace:
    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--folder", type=Path, help="measure the files of this folder, and fetch nothing")
        parser.add_argument(
            "--cache", type=Path, default=sources.CACHE, help=f"where packages are kept [{sources.CACHE}]"
        )

    return report.arguments(
        __doc__,
        add,
        files=(400, 20, "the most files of each kind"),
        seconds=(60, 60, "seconds that reading one file may take"),
        rounds=(3, 1, "rounds"),
        questions=(2, 2, "questions of each kind per file and round"),
        pdfs=(50, 1, "PDFs that must be there"),
        others=(50, 1, "web pages and office files that must be there"),
        texts=(300, 1, "text files that must be there"),
    )


def _ask(
    files: Sequence[ReadFile],
    per_file: int,
    seed: int,
    answers: dict[str, list[Answer]],
    searched: dict[str, dict[str, float]],
) -> list[tuple[str, Item]]:
    """Ask the questions of one round of every strategy; adds to `answers`, and sets what was searched."""
    texts, items = choose_items([file.extracted for file in files], per_file, seed)
    embedder = WordLlamaEmbedder()
    for name in STRATEGIES:
        found: Searched = search_with(name, texts, embedder)
        searched[name] = found.facts
        some = find_answers(found, items, embedder)
        answers[name] += some
        sys.stderr.write(f"seed {seed}, {name}: {score(some)}\n")
    return [(files[item.file].kind, item) for item in items]


def _score_groups(items: Sequence[tuple[str, Item]], answers: Sequence[Answer]) -> dict[str, dict[str, float]]:
    """The scores of all answers, of those to each kind of question, and of those in each kind of file."""
    pairs = [*zip(items, answers, strict=True)]
    groups = {"all": score(answers)}
    for question_kind in QUESTION_KINDS:
        groups[question_kind] = score([one for (_, item), one in pairs if item.kind == question_kind])
    for kind in KINDS:
        groups[kind] = score([one for (file_kind, _), one in pairs if file_kind == kind])
    return groups


if __name__ == "__main__":
    main()
