"""The layout of the bucket: the key of each object of a document."""

import re
from datetime import datetime

BUCKET = "rag-knowledge-base"
STAGING_PREFIX = "temp/"  # a lifecycle rule removes objects of rolled-back transactions


def raw_file_key(doc_id: str, source_type: str, created_at: datetime, extension: str) -> str:
    """Key of the original file. The date is that of the document's creation, so that the key is stable."""
    return f"raw-files/{source_type}/{created_at:%Y/%m/%d}/{doc_id}.{extension}"


def extracted_text_key(doc_id: str) -> str:
    return f"processed-data/extracted-text/{doc_id}.txt"


def embeddings_prefix(doc_id: str) -> str:
    """Prefix of all archived vectors of a document."""
    return f"processed-data/embeddings/{doc_id}/"


def embeddings_key(doc_id: str, version: int, part: int) -> str:
    """Key of the vectors that one event carried; zero-padded, so that keys sort by version."""
    return f"{embeddings_prefix(doc_id)}{version:012d}-{part:05d}.msgpack"


def embeddings_version(key: str) -> int:
    """The version in a key of `embeddings_key`; 0 for another key."""
    version = key.rpartition("/")[2].partition("-")[0]
    return int(version) if version.isdecimal() else 0


def staging_key(upload_id: str) -> str:
    return f"{STAGING_PREFIX}upload_{upload_id}/file"


def is_staging_key(key: str) -> bool:
    return re.fullmatch(r"temp/upload_[0-9a-f]{32}/file", key) is not None
