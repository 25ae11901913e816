"""The layout of the bucket: the key of each object of a document."""

import re
from collections.abc import Iterable
from datetime import datetime

from schema.database.tables import SOURCE_TYPES

SYSTEM_ID_KEY = "system-id"  # the object that names the system of the bucket
_RAW_PREFIX = "raw-files/"
_PROCESSED = "processed-data"
_TABLES, _IMAGES = f"{_PROCESSED}/tables", f"{_PROCESSED}/images"
_KEY_OF_DOCUMENT = re.compile(
    rf"raw-files/(?:{'|'.join(SOURCE_TYPES)})/[0-9]{{4}}/[0-9]{{2}}/[0-9]{{2}}/([^/]+)\.[^/.]+"
    r"|processed-data/(?:extracted-text/([^/]+)\.txt|(?:tables|images|embeddings)/([^/]+)/[^/]+)"
)
_ARCHIVE_OBJECT = re.compile(r"([0-9]+)-([0-9]+)(?:\.(r([0-9]+)|superseded)-[0-9a-f]{8})?\.msgpack")
ARCHIVES_PREFIX = "processed-data/embeddings/"
STAGING_PREFIX = "temp/"  # a sweep removes what no row names


def bucket_of(namespace: str) -> str:
    """The bucket of a namespace if no other is set: `rag-knowledge-base` for `rag`. A bucket's name has no `_`."""
    return f"{namespace.lower().replace('_', '-')}-knowledge-base"


def raw_file_key(doc_id: str, source_type: str, created_at: datetime, extension: str) -> str:
    """Key of the original file. The date is that of the document's creation, so that the key is stable."""
    return f"{_RAW_PREFIX}{source_type}/{created_at:%Y/%m/%d}/{doc_id}.{extension}"


def extracted_text_key(doc_id: str) -> str:
    return f"processed-data/extracted-text/{doc_id}.txt"


def table_key(doc_id: str, number: int) -> str:
    """Key of a table of a document, as JSON; `number` is from 1."""
    return f"{_TABLES}/{doc_id}/table_{number}.json"


def image_key(doc_id: str, number: int) -> str:
    """Key of an image of a document, as PNG; `number` is from 1."""
    return f"{_IMAGES}/{doc_id}/img_{number}.png"


def file_kind(key: str) -> str:
    """The kind of a document's file, a value of `document_files.kind`, by its key."""
    kinds = {"extracted-text": "text", "tables": "table", "images": "image"}
    return kinds.get(key.split("/")[1], "raw") if key.startswith(f"{_PROCESSED}/") else "raw"


def embeddings_prefix(doc_id: str) -> str:
    """Prefix of all archived vectors of a document."""
    return f"{ARCHIVES_PREFIX}{doc_id}/"


def embeddings_key(doc_id: str, version: int, part: int) -> str:
    """Key of the vectors that one event carried; zero-padded, so that keys sort by version."""
    return f"{embeddings_prefix(doc_id)}{version:012d}-{part:05d}.msgpack"


def rewritten_key(key: str, unique: str) -> str:
    """Key of a copy of an archive object without some of its rows; `unique` are 8 hex digits.

    It keeps version and part, and `embeddings_order` puts it after the object that it was made from.
    """
    number = 1 + _match(key, 4)
    return f"{_stem(key)}.r{number:05d}-{unique}.msgpack"


def superseded_key(key: str, unique: str) -> str:
    """Key of the rows that no chunk of the document needs now; retention removes the object after a while."""
    return f"{_stem(key)}.superseded-{unique}.msgpack"


def is_superseded_key(key: str) -> bool:
    return ".superseded-" in key.rpartition("/")[2]


def embeddings_version(key: str) -> int:
    """The version in the key of an archive object; 0 for another key."""
    return _match(key, 1)


def embeddings_part(key: str) -> int:
    """The part in the key of an archive object; 0 for another key."""
    return _match(key, 2)


def embeddings_order(key: str) -> tuple[bool, int, int, int, str]:
    """Sorts archive objects of a document: the last one with a chunk's row has the newest copy of it."""
    return not is_superseded_key(key), _match(key, 1), _match(key, 2), _match(key, 4), key


def _stem(key: str) -> str:
    return f"{key.rpartition('/')[0]}/{_match(key, 1):012d}-{_match(key, 2):05d}"


def _match(key: str, group: int) -> int:
    """A number in the key of an archive object: 1 the version, 2 the part, 4 how often it was rewritten."""
    found = _ARCHIVE_OBJECT.fullmatch(key.rpartition("/")[2])
    return int(found[group] or 0) if found else 0


def keys_prefixes(doc_id: str, known_keys: Iterable[str]) -> list[str]:
    """Prefixes of all keys that a document may have; `is_key_of` tells them from keys of other documents.

    The date in the key of an original is unknown here: it is taken from `known_keys`.
    """
    dates = sorted({"/".join(key.split("/")[2:-1]) for key in known_keys if key.startswith(_RAW_PREFIX)})
    raw = [f"{_RAW_PREFIX}{source_type}/{date}/{doc_id}." for date in dates for source_type in SOURCE_TYPES]
    folders = [f"processed-data/{kind}/{doc_id}/" for kind in ("tables", "images")]
    return [embeddings_prefix(doc_id), extracted_text_key(doc_id), *folders, *raw]


def is_key_of(doc_id: str, key: str) -> bool:
    """Whether a key with one of the document's prefixes is a key of this document."""
    if key.startswith(_RAW_PREFIX):
        stem, _, extension = key.rpartition("/")[2].rpartition(".")
        return stem == doc_id and extension != ""
    return key == extracted_text_key(doc_id) or f"/{doc_id}/" in key


def doc_id_of(key: str) -> str | None:
    """The document that an object belongs to; None for the key of no document."""
    found = _KEY_OF_DOCUMENT.fullmatch(key)
    return next(filter(None, found.groups()), None) if found else None


def staging_key(upload_id: str) -> str:
    return f"{STAGING_PREFIX}upload_{upload_id}/file"


def task_prefix(upload_id: str) -> str:
    """Prefix of what the steps of an upload's processing leave for each other."""
    return f"{STAGING_PREFIX}task_{upload_id}/"


def upload_id_of(key: str) -> str | None:
    """The upload whose processing left this object; None for another key."""
    found = re.fullmatch(r"temp/task_([0-9a-f]{32})/[^/]+", key)
    return found[1] if found else None


def is_staging_key(key: str) -> bool:
    return re.fullmatch(r"temp/upload_[0-9a-f]{32}/file", key) is not None
