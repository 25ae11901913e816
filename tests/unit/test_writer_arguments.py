"""Headers and the transaction context are checked before anything is written; so are the writer's own settings."""

from pathlib import Path
from typing import Any

import pytest

from producer import Document, DocumentFile, InvalidArgument, Receipt, Writer, WrongRelease
from producer.headers import check_context, check_headers
from schema.database.connection import connect

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"X-Tenant": "a"}, r"headers\['X-Tenant'\] must have a name of lower-case"),
        ({"": "a"}, r"headers\[''\] must have a name"),
        ({"a b": "a"}, r"headers\['a b'\] must have a name"),
        ({7: "a"}, r"headers\[7\] must have a name"),
        ({"x" * 65: "a"}, "a name of at most 64 bytes, has 65"),
        ({"ce_id": "a"}, r"headers\['ce_id'\] is reserved"),
        ({"content-type": "a"}, r"headers\['content-type'\] is reserved"),
        ({"a": 1}, r"headers\['a'\] must be a string, is int"),
        ({"a": None}, "must be a string, is NoneType"),
        ({"a": b"1"}, "must be a string, is bytes"),
        ({"a": "é" * 513}, "at most 1024 bytes of UTF-8, has 1026"),
        ({"a": "one\ntwo"}, "control characters"),
        ({"a": "\ud800"}, "lone surrogate"),
        ({f"h{number}": "" for number in range(17)}, "headers must be at most 16, there are 17"),
        ([("a", "b")], "headers must map names to strings, is list"),
    ],
)
def test_invariant_13_header_that_breaks_a_limit_is_named(headers: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_headers(headers)


def test_headers_at_their_limits_are_taken() -> None:
    headers = {f"x-{number}": "v" * 1_024 for number in range(15)} | {"h" * 64: ""}
    assert check_headers(headers) == headers
    assert check_headers(None) == {}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("request 7", "transaction_context must map names to values"),
        ({1: "a"}, "must map names to values"),
        ({"a": object()}, "not JSON serializable"),
        ({"a": float("nan")}, "must hold values that JSON can hold"),
        ({"a": "\ud800"}, "must hold values that JSON can hold"),
        ({"a": "é" * 2_048}, "at most 4096 bytes of JSON, has 4105"),
    ],
)
def test_invariant_13_context_that_breaks_a_limit_is_refused(context: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        check_context(context)


def test_context_holds_any_json() -> None:
    context = {"request": "7", "user": {"id": 7, "roles": ["a", None, True, 1.5]}}
    assert check_context(context) == context
    assert check_context(None) is None


def test_unknown_content_type_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="content_type must be 'application/msgpack' or 'application/json', is 'x'"):
        Writer("model", content_type="x")


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"model": None}, TypeError, "model must be a string, is NoneType"),
        ({"operator": None}, TypeError, "operator must be a string, is NoneType"),
        ({"max_pending_events": "5"}, TypeError, "max_pending_events must be a whole number or None, is str"),
        ({"max_pending_events": -1}, ValueError, "max_pending_events must be at least 0, is -1"),
        ({"max_pending_bytes": -1}, ValueError, "max_pending_bytes must be at least 0, is -1"),
    ],
)
def test_wrong_setting_of_a_writer_is_named_at_once(given: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Writer(**{"model": "model"} | given)


def test_single_value_is_no_list_of_ids_or_documents(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
    single = Document(doc_id="d", title="D", source_type="text", chunks=[])
    given: Any
    with engine.connect() as connection:
        for given in ("l1", b"l1"):
            with pytest.raises(TypeError, match=f"doc_ids must be a list of str, is {type(given).__name__}"):
                Writer("model").delete_many(connection, given)
        given = single
        with pytest.raises(TypeError, match="documents must be a list of Document, is Document"):
            Writer("model").upsert_many(connection, given)
    engine.dispose()


def test_write_without_tables_names_init(tmp_path: Path) -> None:
    engine, message = connect(f"sqlite:///{tmp_path / 'empty.db'}"), "no rag-outbox tables yet: run rag-outbox init"
    with pytest.raises(WrongRelease, match=message), engine.begin() as connection:
        Writer("model").delete(connection, "d")
    with pytest.raises(WrongRelease, match=message), engine.begin() as connection:
        Writer("model").dimension(connection)
    engine.dispose()


def test_wait_names_timeout_for_a_number_in_its_place(tmp_path: Path) -> None:
    engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
    wrong: Any = 5
    with pytest.raises(TypeError, match="a timeout goes by name: timeout_seconds=5"):
        Receipt("d", 1, True, engine).wait(wrong)
    engine.dispose()


def test_path_of_a_file_may_be_a_string(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"text")
    assert DocumentFile.from_path(str(tmp_path / "a.txt")) == DocumentFile.from_path(tmp_path / "a.txt")
