"""Headers and the transaction context are checked before anything is written; so are the writer's own settings."""

from typing import Any

import pytest

from producer import InvalidArgument, Writer
from producer.headers import check_context, check_headers

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
