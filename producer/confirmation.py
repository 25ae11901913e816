"""What the sinks are known to hold of a document, each judged by its own `applied_version`.

Only required, active sinks count: the others are brought up to date by a refill, without an event.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from schema.sinks import RegisteredSink


@dataclass(frozen=True, slots=True)
class SinkState:
    """A row of `sink_states`, as far as a write needs it."""

    applied_version: int
    state: str

    @property
    def held_version(self) -> int:
        """The newest version that the sink is known to hold; an absent or failed sink is known to hold nothing."""
        return 0 if self.state in ("absent", "failed") else self.applied_version


NEVER_ASKED = SinkState(0, "pending")  # a writer in another language leaves the rows out


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The newest version whose vectors, labels and files every sink that takes them is known to hold."""

    vectors: int
    labels: int
    files: int
    archive: int  # the newest version whose vectors the archive has; 0 without an archive
    is_sound: bool  # no sink is failed or absent


def confirm(sinks: Sequence[RegisteredSink], states: Mapping[str, SinkState], *, version: int) -> Confirmation:
    """Judge a document at `version` by its sinks' states. All states of a new suspect are absent, until a refill.

    What no sink takes needs no confirmation. Labels are not kept by an archive, which takes vectors and files.
    """
    gating = [sink for sink in sinks if sink.is_gating]
    found = {sink.name: states.get(sink.name, NEVER_ASKED) for sink in gating}

    def held(names: Iterable[str], default: int = version) -> int:
        return min((found[name].held_version for name in names), default=default)

    return Confirmation(
        held(sink.name for sink in gating if sink.takes_vectors),
        held(sink.name for sink in gating if sink.takes_vectors and not sink.takes_files),
        held(sink.name for sink in gating if sink.takes_files),
        held((sink.name for sink in gating if sink.takes_vectors and sink.takes_files), 0),
        is_sound=all(state.state not in ("absent", "failed") for state in found.values()),
    )
