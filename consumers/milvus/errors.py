"""What an error of a Milvus request means: the same request may succeed later, or never.

The codes are those of `pkg/util/merr/errors.go` in Milvus' source; what is not listed may be temporary.
"""

from typing import Final

import grpc
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError, SchemaNotReadyException

from schema.failures import Permanent, Retryable

ERRORS: Final = (MilvusException, grpc.RpcError)  # what a request may raise
_INVALID = {1100, 1101, 1102}  # a parameter is invalid, missing, too large
_LITE_INVALID = 6  # of Milvus Lite, which has one number for old and new codes; on a server: wrong cluster, old code 1
_NOT_LOADED = {101, 201}  # a collection, a partition
_OF_THE_CLIENT = (ParamError, DataNotMatchException, SchemaNotReadyException)  # nothing was sent


def translated(error: Exception) -> Permanent | Retryable:
    if isinstance(error, grpc.RpcError):
        return Retryable(f"Milvus: {_words(error)}")
    if not isinstance(error, MilvusException):
        return Retryable(f"Milvus: {error}")
    lite_refused = (error.code, error.compatible_code) == (_LITE_INVALID, _LITE_INVALID)
    if isinstance(error, _OF_THE_CLIENT) or error.code in _INVALID or lite_refused:
        return Permanent(f"Milvus: {error.message}")
    return Retryable(f"Milvus: {error.message}")


def not_loaded(error: Exception) -> bool:
    """Whether the collection has to be loaded before it can be read."""
    return isinstance(error, MilvusException) and error.code in _NOT_LOADED


def _words(error: grpc.RpcError) -> str:
    if isinstance(error, grpc.Call):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
