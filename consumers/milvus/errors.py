"""Milvus errors as Retryable (the same request may succeed later) or Permanent (it never will).

The codes are those of `pkg/util/merr/errors.go` in Milvus' source; a code that is not listed is retryable.
"""

from typing import Final

import grpc
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError, SchemaNotReadyException

from schema import collection
from schema.failures import Permanent, Retryable

ERRORS: Final = (MilvusException, grpc.RpcError)  # raised by requests
_INVALID = {1100, 1101, 1102}  # a parameter is invalid, missing, too large
_LITE_INVALID = 6  # Milvus Lite, as old and as new code; a server's code 6 (wrong cluster) has the old code 1
_CLIENT_ERRORS = (ParamError, DataNotMatchException, SchemaNotReadyException)  # nothing was sent


def translate(error: Exception) -> Permanent | Retryable:
    if isinstance(error, grpc.RpcError):
        return Retryable(f"Milvus: {_describe(error)}")
    if not isinstance(error, MilvusException):
        return Retryable(f"Milvus: {error}")
    lite_refused = (error.code, error.compatible_code) == (_LITE_INVALID, _LITE_INVALID)
    if isinstance(error, _CLIENT_ERRORS) or error.code in _INVALID or lite_refused:
        return Permanent(f"Milvus: {error.message}")
    return Retryable(f"Milvus: {error.message}")


def is_not_loaded(error: Exception) -> bool:
    """Whether the collection has to be loaded before it can be read."""
    return isinstance(error, MilvusException) and error.code in collection.NOT_LOADED_CODES


def _describe(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
