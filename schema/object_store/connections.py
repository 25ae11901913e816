"""HTTP connections whose time limit holds for each block of an upload.

Python's `sendall` takes a limit as that of the whole upload, and urllib3 gives it the limit for connecting: a part of
16 MiB would never pass a slow network.
"""

from typing import Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

_BLOCK_BYTES = 64 * 1024


class _Connection(HTTPConnection):
    def send(self, data: Any) -> None:
        for block in _blocks(data):
            super().send(block)


class _SecureConnection(HTTPSConnection):
    def send(self, data: Any) -> None:
        for block in _blocks(data):
            super().send(block)


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


def pool_manager(**options: Any) -> urllib3.PoolManager:
    """A pool manager of such connections; `options` are urllib3's."""
    manager = urllib3.PoolManager(**options)
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
    return manager


def _blocks(data: Any) -> list[Any]:
    if not isinstance(data, (bytes, bytearray)) or len(data) <= _BLOCK_BYTES:
        return [data]
    view = memoryview(data)
    return [view[start : start + _BLOCK_BYTES] for start in range(0, len(view), _BLOCK_BYTES)]
