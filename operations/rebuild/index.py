"""The index of the vectors of a new collection, from the options of the command. The server has the last word."""

from typing import Any

from operations.errors import UsageError
from schema import collection

_NLIST = {"nlist": 1_024}
_PARAMETERS: dict[str, dict[str, int]] = {  # of each type, with its default values; 0: there is none
    "HNSW": collection.HNSW,
    "IVF_FLAT": _NLIST,
    "IVF_SQ8": _NLIST,
    "IVF_PQ": {**_NLIST, "m": 0, "nbits": 8},
    "SCANN": _NLIST,
    "FLAT": {},
    "DISKANN": {},
    "AUTOINDEX": {},
}
_ONLY_SERVERS = {"SCANN", "DISKANN"}  # Milvus Lite accepts them and fails later


def parse_index(kind: str | None, parameters: str | None, *, dimension: int, is_lite: bool) -> dict[str, Any] | None:
    """`parameters` looks like "M=32,efConstruction=400". None without a kind. Raises UsageError."""
    if kind is None:
        if parameters:
            raise UsageError("--index-parameters go with --index")
        return None
    known = [name for name in _PARAMETERS if not (is_lite and name in _ONLY_SERVERS)]
    if kind not in known:
        raise UsageError(f"--index {kind!r}: must be one of {', '.join(known)}")
    defaults = _PARAMETERS[kind]
    given = _parse(parameters or "")
    for name in given:
        if name not in defaults:
            raise UsageError(f"--index-parameters: {kind} has no {name!r}; it has: {', '.join(defaults) or 'none'}")
    made = defaults | given
    for name, value in made.items():
        if value < 1:
            raise UsageError(f"--index-parameters: {kind} needs {name}=NUMBER")
    if "m" in made and dimension % made["m"]:
        raise UsageError(f"--index-parameters: m={made['m']} must divide the dimension, which is {dimension}")
    return {"index_type": kind, "params": made}


def _parse(text: str) -> dict[str, int]:
    given: dict[str, int] = {}
    for one in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = one.partition("=")
        if not value.isascii() or not value.isdigit() or name in given:
            raise UsageError(f"--index-parameters: {one!r} must be NAME=NUMBER, and each name given once")
        given[name] = int(value)
    return given
