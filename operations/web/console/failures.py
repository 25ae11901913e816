"""What a reader sees when a page fails: which store does not answer, or which field is wrong."""

import logging
from typing import Any

from litestar import Response
from litestar.exceptions import HTTPException
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from operations.errors import OperationError, UsageError, describe
from operations.settings import SettingsError
from operations.web.console.rendering import Asked, render, texts_of
from producer import ProducerError
from schema.failures import Permanent, Retryable, StoreMissing

FAILURES = (OperationError, ProducerError, Permanent, Retryable, StoreMissing)  # of an action, for its reader

_log = logging.getLogger(__name__)


class NotFound(Exception):
    """Raised by a page for an id that does not exist; the message is for the reader."""


def show_failure(request: Asked, error: Exception) -> Response[Any]:
    """A page for any error; one that is a bug is logged with its traceback, and not shown."""
    words = texts_of(request)

    def page(status: int, kind: str, detail: str) -> Response[Any]:
        hint = words(f"error.{kind}_hint")
        return render(request, "error.html", status=status, title=words(f"error.{kind}"), detail=detail, hint=hint)

    match error:
        case NotFound():
            return page(404, "missing", str(error))
        case UsageError() | SettingsError():
            return page(400, "wrong", str(error))
        case HTTPException() if error.status_code == 404:
            return page(404, "missing", request.url.path)
        case HTTPException() if error.status_code < 500:
            return page(error.status_code, "wrong", str(error.detail))
        case DBAPIError() | PoolTimeout():
            return page(503, "store", describe(error) or "metadata database: no free connection")
    reason = describe(error)
    if reason is not None:
        return page(503, "store", reason)
    _log.error("console_failed path=%r error=%s", request.url.path, type(error).__name__, exc_info=error)
    return page(500, "bug", type(error).__name__)
