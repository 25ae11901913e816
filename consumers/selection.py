"""Which events of a batch are applied to a sink: of each document, the newest version that can be applied.

Invariant 6: no older version and no part out of order is applied; no event of a lost history, or of a history before
the document's own, is. Invariant 7: a version that builds on another one is applied after it.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from consumers.marking import Refused
from consumers.marks import Known
from consumers.sink import Change
from schema.database.history import Standing
from schema.events.events import DocumentUpserted, Event


@dataclass(frozen=True)
class Selection:
    """What to do with a batch; an event that is in none of the fields is held already, or waits for its document."""

    changes: list[Change] = field(default_factory=list)
    refused: Refused = field(default_factory=dict)
    lost: list[Event] = field(default_factory=list)  # events of a lost history
    superseded: list[Event] = field(default_factory=list)  # older than the document's history
    missing_parts: list[tuple[str, int, int]] = field(default_factory=list)  # doc_id, version, the first one missing
    bases: set[tuple[str, int]] = field(default_factory=set)  # changes that a newer version of the batch builds on


def select_changes(
    events: Sequence[Event], known: Mapping[str, Known], refused: Refused, tried: Collection[tuple[str, int]] = ()
) -> Selection:
    """`refused` are versions with an event that cannot be decoded. `tried` are bases that were selected before.

    A version is refused as a whole: after a refused part, its tombstones must not remove the rows that the part should
    replace.
    """
    selection = Selection(refused=dict(refused))
    documents: dict[str, dict[int, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in events:
        document = known.get(event.doc_id)
        standing = Standing.LOST if document is None else document.judge(event.history_id, event.version)
        match standing:
            case Standing.VALID:
                documents[event.doc_id][event.version].append(event)
            case Standing.SUPERSEDED:
                selection.superseded.append(event)
            case Standing.LOST:
                selection.lost.append(event)
    for doc_id, versions in documents.items():
        _select_version(doc_id, versions, known[doc_id], selection, tried)
    return selection


def _select_version(
    doc_id: str,
    versions: Mapping[int, Sequence[Event]],
    document: Known,
    selection: Selection,
    tried: Collection[tuple[str, int]],
) -> None:
    """Older versions are skipped (invariant 7), unless no part of the newer one can be applied yet."""
    for version in sorted(versions, reverse=True):
        if version <= document.applied_version or document.is_newer_than(version):
            return
        if version == document.refused_version:
            selection.refused.setdefault((doc_id, version), document.reason)
        if (doc_id, version) in selection.refused:
            return
        base = _find_missing_base(versions[version], document)
        if base is not None and (doc_id, base) not in tried and base in versions:
            selection.bases.add((doc_id, base))
            _select_version(doc_id, {base: versions[base]}, document, selection, tried)
            return
        if base is not None:
            if not document.is_absent:  # a refill needs no event
                reason = selection.refused.get((doc_id, base))
                why = "which the sink does not hold" if reason is None else f"which was refused: {reason}"
                selection.refused[doc_id, version] = f"it builds on version {base}, {why}"
            return
        parts = {event.part: event for event in versions[version]}
        count = document.count_parts(version, parts.values())
        if document.is_absent:  # earlier parts may have come before it was: only these have these vectors and files
            count = max(parts)
        elif max(parts) > count:
            selection.missing_parts.append((doc_id, version, count + 1))
        found = tuple(parts[part] for part in sorted(parts) if part <= count)
        if found:
            selection.changes.append(Change(doc_id, version, found))
            return


def _find_missing_base(parts: Sequence[Event], document: Known) -> int | None:
    """The version that these parts build on, if the sink does not hold it."""
    event = parts[0]
    if not isinstance(event, DocumentUpserted) or event.builds_on is None:
        return None
    base = event.builds_on
    return base if document.applied_version < base else None
