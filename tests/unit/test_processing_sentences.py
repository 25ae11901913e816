"""Sentences end where a reader would say so, in several scripts."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.processing.chunk.sentences import find_ends

pytestmark = pytest.mark.unit


def split(text: str) -> list[str]:
    places = [0, *find_ends(text, 0, len(text)), len(text)]
    return [text[start:end].strip() for start, end in pairwise(places)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["One ends here.", "Another one!", "Is this one?", "Yes …", "No."],
        ["Dr. Miller met Prof. J. R. Smith at 5 p.m. on Monday.", "He left."],
        ["Use a queue, e.g. Kafka, or a table, i.e. an outbox.", "Both work."],
        ["It costs approx. five euros, cf. Fig. 3 and Vol. II.", "Ask Acme Inc. for more."],
        ["Version 1.2.3 is out.", "See example.org/a.b for 3.5 reasons."],
        ['He said "Stop."', "She went on (as always.)", "Then “Well?”", "End."],
        ["Das gilt z. B. für Beamte bzw. Angestellte.", "Vgl. Abs. 3."],
        ["Wait ... and then go on.", "Done."],
        ["今天很好。", "你好吗\uff1f", "他说\uff1a“再见\uff01”", "走了"],
        ["人事部の規定です。", "「休暇は\uff1f」", "はい"],
        ["यह एक वाक्य है।", "दूसरा वाक्य"],
        ["هل هذا سؤال؟", "نعم."],
        [
            "# A heading",
            "Text below it.",
            "- one item",
            "- another item",
            "1. First",
            "2) Second",
            "| a | b |",
            "| c | d |",
        ],
    ],
    ids=lambda sentences: sentences[0][:12],
)
def test_text_is_split_into_its_sentences(sentences: list[str]) -> None:
    assert split("\n".join(sentences)) == sentences
    if not sentences[0].startswith("#"):
        assert split(" ".join(sentences)) == sentences


def test_line_break_inside_a_paragraph_ends_no_sentence() -> None:
    assert split("A sentence that\ngoes on. Another\none.\n\nNo stop\n\nNext") == [
        "A sentence that\ngoes on.",
        "Another\none.",
        "No stop",
        "Next",
    ]


def test_abbreviation_at_the_end_of_a_paragraph_ends_its_sentence() -> None:
    assert split("Bread, milk, etc.\n\nThe next one.") == ["Bread, milk, etc.", "The next one."]


@pytest.mark.parametrize("unit", [".", ".)", "\n", "\n \t", "# \n", "\n1.", "。", "a."])
def test_hostile_texts_take_linear_time(unit: str) -> None:
    text = "x" + unit * (400_000 // len(unit)) + "x"  # quadratic time would exceed the test's timeout
    assert sum(1 for _ in find_ends(text, 0, len(text))) <= len(text)


@settings(deadline=None)  # a shared machine may stall
@given(st.text("ab.!? \n#-1|\"')。\uff1f\u0301", max_size=200))
def test_ends_are_in_order_and_inside_the_text(text: str) -> None:
    ends = [*find_ends(text, 0, len(text))]
    assert ends == sorted(set(ends))
    assert all(0 < end < len(text) for end in ends)
