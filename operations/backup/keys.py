"""The keys of a backup's objects, which contain its timestamp: UTC, `20260131T120000Z`."""

import re
from datetime import UTC, datetime

from schema.object_store.layout import SYSTEM_ID_KEY

FOLDER = "backups/"
DUMPS = "backups/mysql/"
METADATA = "backups/metadata/"
MANIFESTS = "backups/metadata/manifest_"
_FORM = "%Y%m%dT%H%M%SZ"
_TIMESTAMP = re.compile(r"\d{8}T\d{6}Z")
_KEY = re.compile(r"backups/(?:mysql/dump|metadata/(?:manifest|objects))_(\d{8}T\d{6}Z)\.(?:sql|sqlite3|json|tsv)")


def format_timestamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime(_FORM)


def parse_timestamp(text: str) -> datetime:
    """Raises ValueError."""
    try:
        if _TIMESTAMP.fullmatch(text):
            return datetime.strptime(text, _FORM).replace(tzinfo=UTC)
    except ValueError:  # the 31st of February, for instance
        pass
    raise ValueError(f"{text!r} is no timestamp of a backup: give one like 20260131T120000Z")


def dump_key(timestamp: str, extension: str) -> str:
    """`extension`: `sql` or `sqlite3`."""
    return f"{DUMPS}dump_{timestamp}.{extension}"


def manifest_key(timestamp: str) -> str:
    return f"{MANIFESTS}{timestamp}.json"


def objects_key(timestamp: str) -> str:
    """The list of the objects that belong to the backup."""
    return f"{METADATA}objects_{timestamp}.tsv"


def timestamp_of(key: str) -> str | None:
    """The timestamp in the key of a backup's object; None for another key."""
    found = _KEY.fullmatch(key)
    return found[1] if found else None


def is_backed_up(key: str) -> bool:
    """Whether an object of the bucket belongs to a backup: all but the backups and the marker of the system."""
    return not key.startswith(FOLDER) and key != SYSTEM_ID_KEY
