"""`python -m benchmarks.chunking`: each question has one right answer, ranks are exact, bad files are counted."""

import io
import json
import random
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import report
from benchmarks.chunking import __main__ as benchmark
from benchmarks.chunking import sources
from benchmarks.chunking.files import TooFewFiles, find_files, read_files, require_enough
from benchmarks.chunking.measure import STRATEGIES, Answer, holds, is_read, rank_of
from benchmarks.chunking.passages import CONTEXT_KIND, WORDS_KIND, choose_items, cut_out, moved
from benchmarks.chunking.scores import gain, score
from producer.documents import Chunk
from producer.processing.extract.port import Extracted, Table
from tests.support.sample_files import DAYS, write_pdf, write_word

pytestmark = pytest.mark.unit


def prose(seed: int, words: int = 400) -> str:
    """Sentences of made-up words: no run of words occurs twice."""
    numbers = random.Random(seed)
    some = ["".join(numbers.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(words)]
    return ". ".join(" ".join(some[at : at + 10]) for at in range(0, words, 10)) + "."


def extracted(text: str, *tables: Table) -> Extracted:
    return Extracted(text, "text", "a title", "text/plain", None, "0" * 64, len(text), tables=tables)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A damaged PDF, a copy, and one whole file of each kind."""
    folder = tmp_path / "files"
    folder.mkdir()
    write_pdf(folder / "a.pdf", [prose(1), prose(2)], table=DAYS)
    (folder / "damaged.pdf").write_bytes((folder / "a.pdf").read_bytes()[:500])
    write_word(folder / "a.docx")
    (folder / "a.html").write_text(f"<title>A page</title><main><h1>One</h1><p>{prose(3)}</p></main>")
    for number in (4, 5):
        (folder / f"{number}.md").write_text(f"# Title\n\n{prose(number)}\n\n## Next\n\n{prose(number + 10)}\n")
    (folder / "copy.txt").write_bytes((folder / "4.md").read_bytes())
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["chunking", "--quick", *arguments])
    benchmark.main()


def test_quick_run_measures_every_strategy(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    run(monkeypatch, "--folder", str(folder), "--keep")
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    assert json.loads((tmp_path / "results" / "chunking.jsonl").read_text()) == result
    reading = result["reading"]
    assert {kind: (one["files"], one["not_read"]) for kind, one in reading.items()} == {
        "pdf": (1, 1),
        "office": (1, 0),
        "web": (1, 0),
        "text": (2, 0),
    }
    assert reading["pdf"]["pages"] >= 2
    assert reading["pdf"]["tables"] == 1
    assert "pdf: 1 not read: damaged: " in out
    assert [*result["scores"]] == [*result["medians"]] == [*STRATEGIES]
    for scores in result["scores"].values():
        assert scores["all"]["questions"] == scores[WORDS_KIND]["questions"] + scores[CONTEXT_KIND]["questions"] == 16
        # Half of the words of a passage are enough where no word occurs in a second file.
        assert scores[WORDS_KIND]["recall@5"] == 1.0
    assert result["gain_over_default"]["default"] == [0.0, 0.0]
    assert result["machine"]["cores"] > 0
    assert len(result["load_before"]) == 3


def test_too_small_corpus_is_an_error_that_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="too small: 2 PDFs, at least 3 are needed; 2 text files, at least 300 are"):
        run(monkeypatch, "--folder", str(folder), "--pdfs", "3", "--texts", "300")
    require_enough({"pdf": 1, "office": 1, "web": 1, "text": 1}, 1, 2, 1)
    with pytest.raises(TooFewFiles, match="2 web pages and office files, at least 3"):
        require_enough({"pdf": 1, "office": 1, "web": 1, "text": 1}, 1, 3, 1)


def test_choice_of_files_is_the_same_in_every_run_and_has_no_copies(folder: Path) -> None:
    found = find_files(folder, 1)
    assert found == find_files(folder, 1)
    assert {kind: len(some) for kind, some in found.items()} == {"pdf": 1, "office": 1, "web": 1, "text": 1}
    assert [path.name for path in find_files(folder, 9)["text"]] == ["4.md", "5.md"]


def test_reading_counts_what_it_read(folder: Path) -> None:
    found, readings = read_files(find_files(folder, 9), 600)
    assert [one.kind for one in found] == ["pdf", "office", "web", "text", "text"]
    text = readings["text"]
    assert text.bytes == sum((folder / f"{number}.md").stat().st_size for number in (4, 5))
    assert text.characters == sum(len(one.extracted.text) for one in found if one.kind == "text")
    assert text.facts["files_per_second"] > 0


def answers_of(seed: int) -> Iterator[tuple[str, str, str, str]]:
    """(kind, question, answer, searched text) of each item."""
    searched, items = choose_items([extracted(prose(1)), extracted(prose(2))], 3, seed)
    for item in items:
        text = searched[item.file].text
        yield item.kind, item.question, text[item.start : item.end], text


def test_words_question_has_half_of_the_words_of_its_answer() -> None:
    some = [one for one in answers_of(1) if one[0] == WORDS_KIND]
    assert len(some) == 6
    for _, question, answer, _ in some:
        assert len(re.findall(r"\w+", answer)) == 30
        assert len(question.split()) == 15
        assert set(question.split()) < set(re.findall(r"\w+", answer))
        assert question not in answer


def test_words_of_a_context_question_are_not_in_the_searched_text() -> None:
    some = [one for one in answers_of(1) if one[0] == CONTEXT_KIND]
    assert len(some) == 6
    for _, question, answer, text in some:
        assert not [word for word in re.findall(r"\w+", question) if word in text]
        assert len(re.findall(r"\w+", answer)) == 15
        assert any(f"{question}{gap}{answer}" in prose(seed) for seed in (1, 2) for gap in (" ", ". "))


def test_same_seed_asks_the_same_and_another_seed_asks_elsewhere() -> None:
    assert [*answers_of(1)] == [*answers_of(1)]
    assert [*answers_of(1)] != [*answers_of(2)]


def test_passage_that_stands_twice_is_no_known_item() -> None:
    assert choose_items([extracted(prose(1)), extracted(prose(1))], 3, seed=1)[1] == []


def test_no_passage_touches_a_table_or_crosses_a_blank_line_or_is_code() -> None:
    cells = (tuple(prose(7, 40).split()),)
    row = f"| {' | '.join(cells[0])} |"
    start = len(prose(1)) + 2
    one = extracted(f"{prose(1)}\n\n{row}\n\n{prose(2)}", Table(cells, start=start, end=start + len(row)))
    searched, items = choose_items([one], 10, seed=3)
    assert len(items) > 10
    for item in items:
        assert "\n\n" not in searched[0].text[item.start : item.end]
        assert "|" not in searched[0].text[item.start : item.end]
    [table] = searched[0].tables
    assert searched[0].text[table.start : table.end] == row
    assert choose_items([extracted(" ".join(f"x{number}" for number in range(500)))], 3, seed=1)[1] == []


def test_cut_text_keeps_the_places_of_tables_and_scans() -> None:
    text = "0123456789abcdefghij"
    one = replace(extracted(text, Table((("a", "b"),), start=10, end=12)), scanned=((4, 8),))
    cut = cut_out(one, [(1, 3), (6, 9)])
    assert cut.text == "03459abcdefghij"
    assert [(table.start, table.end) for table in cut.tables] == [(5, 7)]
    assert cut.text[5:7] == "ab"
    assert cut.scanned == ((2, 4),)
    assert [moved(at, [(1, 3)]) for at in (0, 1, 2, 3, 9)] == [0, 1, 1, 1, 7]


def test_rank_counts_better_and_equal_chunks_of_others() -> None:
    likeness = np.array([0.1, 0.9, 0.5, 0.5, 0.3], np.float32)
    assert rank_of(likeness, []) == 0
    assert rank_of(likeness, [1]) == 1
    assert rank_of(likeness, [2]) == 3  # an equal one counts against it
    assert rank_of(likeness, [2, 3]) == 2  # but not another right one
    assert rank_of(likeness, [0, 4]) == 4


def test_read_counts_the_characters_of_the_best_chunks() -> None:
    likeness = np.array([0.9, 0.8, 0.7], np.float32)
    assert is_read(likeness, [1], np.array([3_000, 1_000, 1]))
    assert not is_read(likeness, [1], np.array([3_000, 1_001, 1]))


def test_chunk_that_holds_half_of_an_answer_is_right() -> None:
    _, [item, *_] = choose_items([extracted(prose(1))], 1, seed=1)
    length = item.end - item.start
    assert holds(Chunk(content="x" * length, start_char=item.start + length // 2), item)
    assert not holds(Chunk(content="x" * length, start_char=item.start + length // 2 + 1), item)
    assert not holds(Chunk(content="x" * length), item)  # a row of a table has no place


def test_scores_of_ranks() -> None:
    answers = [Answer(1, True), Answer(4, True), Answer(10, False), Answer(0, False)]
    assert score(answers) == {"questions": 4, "recall@1": 0.25, "recall@5": 0.5, "mrr": 0.3375, "read": 0.5}
    assert score([]) == {"questions": 0}
    assert gain(answers, [Answer(9, False)] * 4) == (0.5, 0.25)


def test_fetched_packages_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("one==1 --hash=sha256:0\n")
    downloads = []

    def download(packages: Path, _: Path) -> None:
        downloads.append(packages)
        with tarfile.open(packages / "one-1.tar.gz", "w:gz") as archive:
            for name, content in (("one-1/docs/a.md", b"# A"), ("one-1/../../up.md", b"# B"), ("one-1/a.py", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))

    monkeypatch.setattr(sources, "_download", download)
    files = sources.fetch(tmp_path / "cache", requirements)
    assert sources.fetch(tmp_path / "cache", requirements) == files
    assert len(downloads) == 1
    assert sorted(path.relative_to(files).as_posix() for path in files.rglob("*.*") if path.is_file()) == [
        "one-1/0000-docs-a.md",
        "one-1/0001-..-..-up.md",
    ]


def test_failed_fetch_says_what_pip_said(tmp_path: Path) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("no requirement --hash=sha256:0\n")
    with pytest.raises(sources.FetchFailed, match=r"(?s)pip download ended with \d:\n.*Invalid requirement"):
        sources.fetch(tmp_path / "cache", requirements)
