"""A difference between the metadata database and a store; `docs/reconcile.md` explains each kind."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "missing",
    "stale",
    "orphaned",
    "doubled",
    "mismarked",
    "incomplete",
    "stuck",
    "lacking",
    "staged",
    "foreign",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
HARMLESS: frozenset[Kind] = frozenset({"foreign"})  # listed, and not counted as a difference

DATABASE = "mysql"  # the store of differences within the metadata database, SQLite too


@dataclass(frozen=True, slots=True, order=True)
class Difference:
    """`key` names the chunk, object or event; `doc_id` is '' when the key belongs to no document.

    `version` is that of an orphaned row or archive object; 0 if it is unknown.
    """

    store: str
    kind: Kind
    doc_id: str
    key: str
    detail: str
    version: int = 0
