"""Headers that travel with an event, and the context that stays with its row of `operation_logs`: checked, and made."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from producer.errors import InvalidArgument, Problem
from schema import limits

_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # a token of HTTP, in lower case
_OWN = re.compile(r"ce_.*|content-type")  # set by the relay


def check_headers(headers: object) -> dict[str, str]:
    """The headers; raises InvalidArgument with every problem. None is no headers."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        raise InvalidArgument([Problem("headers", f"must map names to strings, is {type(headers).__name__}")])
    if problems := [*_problems(headers)]:
        raise InvalidArgument(problems)
    return dict(headers)


def _problems(headers: Mapping[Any, Any]) -> Iterator[Problem]:
    if len(headers) > limits.HEADERS:
        yield Problem("headers", f"must be at most {limits.HEADERS}, there are {len(headers)}")
    for name, value in headers.items():
        field = f"headers[{name!r}]"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            yield Problem(field, "must have a name of lower-case ASCII letters, digits and punctuation, as in HTTP")
        elif len(name) > limits.HEADER_NAME_BYTES:
            yield Problem(field, f"must have a name of at most {limits.HEADER_NAME_BYTES} bytes, has {len(name)}")
        elif _OWN.fullmatch(name):
            yield Problem(field, "is reserved: the relay sets ce_* and content-type")
        if not isinstance(value, str):
            yield Problem(field, f"must be a string, is {type(value).__name__}")
        elif (size_bytes := _size_bytes(value)) is None:
            yield Problem(field, "must be valid Unicode, has a lone surrogate")
        elif size_bytes > limits.HEADER_VALUE_BYTES:
            yield Problem(field, f"must be at most {limits.HEADER_VALUE_BYTES} bytes of UTF-8, has {size_bytes}")
        elif not value.isprintable():
            yield Problem(field, "must not contain control characters")


def check_context(context: object) -> Mapping[str, Any] | None:
    """The transaction context, for instance a request id and a user. Raises InvalidArgument if it is no small JSON."""
    if context is None:
        return None
    field, limit = "transaction_context", limits.TRANSACTION_CONTEXT_BYTES
    if not isinstance(context, Mapping) or not all(isinstance(name, str) for name in context):
        raise InvalidArgument([Problem(field, "must map names to values that JSON can hold")])
    try:
        size_bytes = len(json.dumps(dict(context), allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError, RecursionError) as error:  # a lone surrogate is a ValueError, too
        raise InvalidArgument([Problem(field, f"must hold values that JSON can hold: {error}")]) from error
    if size_bytes > limit:
        raise InvalidArgument([Problem(field, f"must be at most {limit} bytes of JSON, has {size_bytes}")])
    return dict(context)


def trace_headers() -> Callable[[], Mapping[str, str]]:
    """Makes headers that name the active span. Raises ImportError without the extra `otel`."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # only if it traces

    propagator = TraceContextTextMapPropagator()  # not the global one: baggage may hold what no store should get

    def inject() -> Mapping[str, str]:
        headers: dict[str, str] = {}
        propagator.inject(headers)
        return headers

    return inject


def _size_bytes(value: str) -> int | None:
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        return None
