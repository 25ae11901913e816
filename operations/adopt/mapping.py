"""The mapping file: where the old platform keeps documents, chunks, vectors and files, and how it names them.

Every key is checked before any store is opened. Secrets are never in the file: it names environment variables.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from string import Formatter
from typing import Any, NoReturn, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec

from operations.adopt.errors import MappingError
from schema.database.tables import SOURCE_TYPES

T = TypeVar("T")
_UNKNOWN_KEY = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<at>[^`]*)`)?")
_MISSING_KEY = re.compile(r"Object missing required field `(?P<key>[^`]*)`(?: - at `\$\.?(?P<at>[^`]*)`)?")
_WRONG_VALUE = re.compile(r"(?P<what>.*) - at `\$\.?(?P<at>[^`]*)`")
_KEY_PARTS = frozenset({"doc_id", "file"})  # what the template of an object key may name


class Database(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url_env: str  # the variable that holds the SQLAlchemy URL


class DocumentColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    doc_id: str
    title: str
    source_type: str | None = None
    source_url: str | None = None
    business_tag: str | None = None
    domain: str | None = None
    language: str | None = None
    page_count: str | None = None
    file: str | None = None


class ChunkColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    doc_id: str
    order: str
    vector_id: str
    content: str | None = None
    id: str | None = None  # what `parent` refers to; without it, `vector_id`
    parent: str | None = None
    vector_level: str | None = None
    modal_type: str | None = None
    associate_id: str | None = None
    start_char: str | None = None


class Rows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where rows come from: exactly one of the three."""

    table: str | None = None
    query: str | None = None
    jsonl: str | None = None


class Documents(Rows, frozen=True, forbid_unknown_fields=True, kw_only=True):
    columns: DocumentColumns
    source_types: dict[str, str] = {}  # the old platform's value → ours
    default_source_type: str | None = None


class Chunks(Rows, frozen=True, forbid_unknown_fields=True, kw_only=True):
    columns: ChunkColumns


class Milvus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    model: str
    vector: str
    collection: str = ""
    uri: str | None = None
    token_env: str | None = None
    id: str | None = None  # the field with the values of `vector_id`; without it, the primary key
    sparse: str | None = None
    content: str | None = None


class Files(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bucket: str
    object_store: str | None = None
    access_key_env: str | None = None
    secret_key_env: str | None = None
    key: str = "{file}"


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole mapping file. `folder` is its folder: paths of JSON lines start there."""

    documents: Documents
    chunks: Chunks
    milvus: Milvus
    database: Database | None = None
    files: Files | None = None

    @property
    def uses_database(self) -> bool:
        return self.documents.jsonl is None or self.chunks.jsonl is None


def load(path: Path, collection: str | None = None) -> Mapping:
    """Read and check a mapping file; `collection` wins over the one that it names.

    Raises MappingError, which names the line, the section and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        mapping = msgspec.convert(tomllib.loads(text), Mapping)
    except OSError as error:
        raise MappingError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise MappingError(f"{path}: not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"{path}: not TOML: {error}") from error
    except msgspec.ValidationError as error:
        _refuse(path, text, str(error))
    if collection is not None:
        mapping = msgspec.structs.replace(
            mapping, milvus=msgspec.structs.replace(mapping.milvus, collection=collection)
        )
    try:
        _check(mapping)
    except _Wrong as wrong:
        raise _error(path, text, wrong.section, wrong.key, wrong.what) from None
    return mapping


def variable(name: str, section: str, key: str) -> str:
    """The value of an environment variable that the file names. Raises MappingError if it is not set."""
    value = os.environ.get(name)
    if not value:
        raise MappingError(f"[{section}] {key}: the environment variable {name} is not set")
    return value


def suggest(given: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the name that was probably meant, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"


class _Wrong(Exception):
    def __init__(self, section: str, key: str, what: str) -> None:
        super().__init__(what)
        self.section, self.key, self.what = section, key, what


def _check(mapping: Mapping) -> None:
    for section, rows in (("documents", mapping.documents), ("chunks", mapping.chunks)):
        given = [name for name in Rows.__struct_fields__ if getattr(rows, name) is not None]
        if len(given) != 1:
            raise _Wrong(section, given[1] if given else "", "needs exactly one of table, query and jsonl")
    if mapping.database is not None and not mapping.uses_database:
        raise _Wrong("database", "", "is not needed: documents and chunks come from JSON lines")
    _check_source_types(mapping.documents)
    if (mapping.chunks.columns.content is None) == (mapping.milvus.content is None):
        raise _Wrong("chunks.columns", "content", "give either this column or [milvus] content: the text of a chunk")
    if not mapping.milvus.collection:
        raise _Wrong("milvus", "", "needs collection, here or as the option --milvus")
    if mapping.milvus.uri is not None:
        url = urlsplit(mapping.milvus.uri)
        if url.scheme not in {"http", "https"} or url.username is not None:
            raise _Wrong("milvus", "uri", "must be http(s)://host:port, without a password: use token_env")
    if mapping.milvus.token_env is not None and mapping.milvus.uri is None:
        raise _Wrong("milvus", "token_env", "needs uri: without it, the system's own server and token are used")
    _check_files(mapping)


def _check_source_types(documents: Documents) -> None:
    names = ", ".join(SOURCE_TYPES)
    for old, ours in documents.source_types.items():
        if ours not in SOURCE_TYPES:
            raise _Wrong("documents.source_types", old, f"must be one of {names}, is {ours!r}")
    default = documents.default_source_type
    if default is not None and default not in SOURCE_TYPES:
        raise _Wrong("documents", "default_source_type", f"must be one of {names}, is {default!r}")
    if default is None and documents.columns.source_type is None:
        raise _Wrong("documents", "", "needs default_source_type, or source_type in [documents.columns]")


def _check_files(mapping: Mapping) -> None:
    files, column = mapping.files, mapping.documents.columns.file
    if files is None:
        if column is not None:
            raise _Wrong("documents.columns", "file", "needs the section [files], which says where the files are")
        return
    try:
        named = {name for _, name, _, _ in Formatter().parse(files.key) if name is not None}
    except ValueError as error:
        raise _Wrong("files", "key", str(error)) from error
    if not named or not named <= _KEY_PARTS:
        raise _Wrong("files", "key", "must be a template with {file} or {doc_id}")
    if "file" in named and column is None:
        raise _Wrong("files", "key", "names {file}: give the column in [documents.columns] file")
    if files.object_store is None:
        return
    url = urlsplit(files.object_store)
    if url.scheme not in {"file", "http", "https"} or url.username is not None:
        raise _Wrong("files", "object_store", "must be file:///path or http(s)://host:port, without a password")
    if url.scheme != "file" and not (files.access_key_env and files.secret_key_env):
        raise _Wrong("files", "object_store", "a server needs access_key_env and secret_key_env")


def _refuse(path: Path, text: str, message: str) -> NoReturn:
    """Raise a message of msgspec as a MappingError."""
    if found := _UNKNOWN_KEY.match(message):
        section, key = found["at"] or "", found["key"]
        what = f"unknown key{suggest(key, _keys(section))}"
    elif found := _MISSING_KEY.match(message):
        section, key = found["at"] or "", ""
        what = f"needs {found['key']}"
    elif found := _WRONG_VALUE.match(message):
        section, _, key = found["at"].rpartition(".")
        what = found["what"]
    else:
        section, key, what = "", "", message
    raise _error(path, text, section, key, what)


def _keys(section: str) -> tuple[str, ...]:
    """The keys that a section may have."""
    struct: Any = Mapping
    for name in filter(None, section.split(".")):
        annotated = {field.name: field.type for field in msgspec.structs.fields(struct)}[name]
        struct = next((one for one in (annotated, *get_args(annotated)) if hasattr(one, "__struct_fields__")), None)
    return tuple(struct.__struct_fields__)


def _error(path: Path, text: str, section: str, key: str, what: str) -> MappingError:
    line = _line(text, section, key)
    place = f"{path}, line {line}" if line else str(path)
    named = " ".join(part for part in (f"[{section}]" if section else "", key) if part)
    return MappingError(f"{place}: {named}: {what}" if named else f"{place}: {what}")


def _line(text: str, section: str, key: str) -> int | None:
    """The line of a key in a section, or of the section; None if it cannot be told."""
    current, found = "", None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.fullmatch(r"\s*\[\s*([\w.-]+)\s*\]\s*(?:#.*)?", line):
            current = header[1]
            if current in {section, f"{section}.{key}" if section else key}:
                found = number
        elif current == section and key and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            return number
    return found
