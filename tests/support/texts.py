"""Texts for the tests of chunk strategies: long ones that are the same in every run, and generated hostile ones."""

import random

from hypothesis import strategies as st


def long_text(kind: str) -> str:
    """60,000 characters without structure above lines, sentences, words or letters, the same in every run."""
    numbers = random.Random(7)

    def chinese(count: int) -> str:
        return "".join(chr(numbers.randint(0x4E00, 0x9000)) for _ in range(count))

    if kind == "lines":
        return "".join(
            f"{number:06d} {numbers.random():.18f} done in the same number of ms\n" for number in range(1_000)
        )
    if kind == "sentences":
        return "".join(f"{chinese(numbers.randint(8, 40))}\u3002" for _ in range(2_400))
    if kind == "words":
        return " ".join(f"{numbers.randrange(10**6):x}" for _ in range(9_000))
    return chinese(60_000)


WORD = st.one_of(
    st.text("abc.!?", min_size=1, max_size=12),
    st.text("x", min_size=1, max_size=60),
    st.text(["e", "\u0301", "\u200d", "\U0001f469", "\U0001f3fd", "\u00e9"], min_size=1, max_size=30),
    st.text("\u4e2d\u6587\u3002\uff1f\u300d", min_size=1, max_size=30),
    st.sampled_from(["#", "##", "###", "```", "~~~"]),
)
GAP = st.sampled_from(
    [" ", " ", "\n", "\n\n", "\n# ", "\n## ", "\n```\n", "\n \n\n", "\t", "\u00a0", "\u3000", " " * 50, ""]
)
TEXT = st.one_of(st.lists(st.tuples(GAP, WORD)).map(lambda pairs: "".join(map("".join, pairs))), st.text())
