"""The documents of the demo that this package brings: one per format, each with a question that it answers."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from producer.processing.extract.formats import BY_SUFFIX

FOLDER = Path(__file__).with_name("documents")


@dataclass(frozen=True)
class Sample:
    name: str  # of the file
    question: str

    @property
    def missing_extra(self) -> str | None:
        """The extra without which the file cannot be read, or None if it is installed."""
        return BY_SUFFIX[Path(self.name).suffix].missing_extra()


SAMPLES = (
    Sample("glaciers.pdf", "why does the ice of a glacier flow down the valley"),
    Sample("bees.docx", "how do bees keep warm in winter"),
    Sample("bread.html", "how long does the dough of sourdough bread rest"),
    Sample("mountains.csv", "how high is Kilimanjaro in metres"),
    Sample("ferry.png", "when does the ferry to the island leave"),
)


def copy_readable(folder: Path) -> list[Sample]:
    """Copy the samples whose extra is installed into `folder`. Returns them."""
    readable = [sample for sample in SAMPLES if sample.missing_extra is None]
    for sample in readable:
        shutil.copyfile(FOLDER / sample.name, folder / sample.name)
    return readable
