"""What `rag-outbox backup` says to a person and to a script."""

from typing import TYPE_CHECKING, Any

from operations.cli.output import count

_ORPHANS_SHOWN = 20

if TYPE_CHECKING:
    from operations.backup.catalogue import Entry
    from operations.backup.manifest import Manifest
    from operations.backup.restore import Restored
    from operations.reconcile.repair_plan import RepairPlan


def manifest_facts(made: "Manifest") -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(made)
    return found


def describe_rows(made: "Manifest") -> str:
    return "rows not counted" if made.rows is None else count(made.rows, "row")


def describe_made(made: "Manifest") -> list[str]:
    lines = [f"Backup {made.timestamp}: {made.dump.size_bytes:,} bytes, {describe_rows(made)}, {made.dump.key}"]
    if made.copied is not None:
        copied = made.copied
        lines.append(
            f"Copied {count(copied.copied, 'object')}; {copied.skipped} were there already, {copied.gone} were removed "
            "since the dump."
        )
        lines += [f"Damaged, and not copied: {key}" for key in copied.damaged]
    return lines


def entry_row(one: "Entry") -> tuple[str, ...]:
    made = one.manifest
    if made is None:
        return one.timestamp, "", "", "", "", one.problem
    rows = "?" if made.rows is None else f"{made.rows:,}"
    state = "complete, with objects" if made.has_copy else "complete"
    return one.timestamp, f"{made.dump.size_bytes:,}", rows, f"{made.objects.objects:,}", made.history_id, state


def entry_facts(one: "Entry") -> dict[str, Any]:
    if one.manifest is None:
        return {"timestamp": one.timestamp, "complete": False, "problem": one.problem, "keys": list(one.keys)}
    return {
        "timestamp": one.timestamp,
        "complete": True,
        "keys": list(one.keys),
        "manifest": manifest_facts(one.manifest),
    }


def restored_facts(done: "Restored") -> dict[str, Any]:
    report = done.settled.report
    return {
        "history_id": done.history_id,
        "copied": done.copied,
        "incomplete": done.incomplete,
        "lacking_files": done.lacking_files,
        "lacking": [{"doc_id": doc_id, "key": key} for doc_id, key in done.lacking],
        "everything_because": done.settled.everything_because,
        "lost_events": None if report is None else report.lost_events,
        "documents": None if report is None else sorted(report.documents),
        "notes": done.notes,
    }


def describe_restored(chosen: "Manifest", done: "Restored", where: str) -> list[str]:
    lines = [f"Restored the backup of {chosen.timestamp} from {where}; its new history is {done.history_id}."]
    if done.copied:
        lines.append(f"Copied {count(done.copied, 'object')} back.")
    lines += [f"The backup is not whole: {one}" for one in done.incomplete]
    if done.lacking_files:
        lines.append(f"Removed since the dump, so write these documents again: {count(done.lacking_files, 'file')}:")
        lines += [f"    {doc_id}: {key}" for doc_id, key in done.lacking]
    if done.settled.everything_because:
        lines.append(f"Every document is refilled in every sink: {done.settled.everything_because}.")
    elif done.settled.report is not None:
        report = done.settled.report
        lines.append(
            f"The topic has {count(report.lost_events, 'event')} of the lost history; "
            f"{count(len(report.documents), 'document')} will be replaced in every sink."
        )
    return [*lines, *done.notes]


def orphan_facts(plan: "RepairPlan") -> dict[str, Any]:
    """Documents that only a store has, and the command that removes them; nothing if there are none."""
    from operations.reconcile.repair import needs_force

    if not plan.unknown:
        return {}
    command = "rag-outbox reconcile --repair --yes" + (" --force" if needs_force(plan) else "")
    return {"orphans": sorted(plan.unknown), "next": command}


def describe_orphans(facts: dict[str, Any]) -> list[str]:
    """What `orphan_facts` says, for a person."""
    if not facts:
        return []
    orphans = facts["orphans"]
    more = f" and {len(orphans) - _ORPHANS_SHOWN} more" if len(orphans) > _ORPHANS_SHOWN else ""
    return [
        f"The stores have {count(len(orphans), 'document')} that the restored database does not know: "
        f"{', '.join(orphans[:_ORPHANS_SHOWN])}{more}. Searches do not show them. Save what you still need of their "
        "files, then remove them:",
        f"    {facts['next']}",
    ]
