"""The object that names the system of a bucket or folder.

It is written once and read back: stores without conditional writes have no better way. Two `init` of two systems at the
same moment may both succeed, but the object names only one of them, and every later process of the other one stops.
"""

import hashlib
import io

from schema.object_store.layout import SYSTEM_ID_KEY
from schema.object_store.port import ObjectMissing, ObjectStore


def read(store: ObjectStore) -> str | None:
    """The id of the system that the store belongs to; None if it belongs to no system yet."""
    try:
        return store.read(SYSTEM_ID_KEY).decode(errors="replace").strip()
    except ObjectMissing:
        return None


def claim(store: ObjectStore, system_id: str) -> None:
    """Write the system id unless there is one."""
    if read(store) is None:
        content = f"{system_id}\n".encode()
        digest = hashlib.sha256(content).hexdigest()
        store.put(SYSTEM_ID_KEY, io.BytesIO(content), size_bytes=len(content), content_type="text/plain", sha256=digest)
