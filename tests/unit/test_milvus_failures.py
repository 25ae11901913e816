"""Which errors of Milvus are retryable, which are permanent, and their messages."""

import grpc
import pytest
from pymilvus.exceptions import DataNotMatchException, MilvusException, ParamError

from consumers.milvus.errors import is_not_loaded, translate
from schema.failures import Permanent, Retryable

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MilvusException(1, "service not ready"), Retryable),
        (MilvusException(2, "service unavailable"), Retryable),
        (MilvusException(3, "memory limit exceeded"), Retryable),
        (MilvusException(4, "too many concurrent requests"), Retryable),
        (MilvusException(6, "cross cluster routing", 1), Retryable),  # of a server
        (MilvusException(6, "illegal argument", 6), Permanent),  # of Milvus Lite
        (MilvusException(7, "disk limit exceeded"), Retryable),
        (MilvusException(8, "rate limit exceeded"), Retryable),
        (MilvusException(9, "quota exceeded"), Retryable),
        (MilvusException(100, "collection not found"), Retryable),
        (MilvusException(101, "collection not loaded"), Retryable),
        (MilvusException(1100, "invalid parameter", 5), Permanent),
        (MilvusException(1101, "missing parameter", 5), Permanent),
        (MilvusException(1102, "parameter too large", 5), Permanent),
        (MilvusException(65_535, "unexpected error"), Retryable),
        (ParamError(message="sparse vector index must be positive"), Permanent),
        (DataNotMatchException(message="should be a varchar"), Permanent),
    ],
    ids=lambda value: f"{value.code}-{value.compatible_code}" if isinstance(value, MilvusException) else None,
)
def test_error_code_decides_between_retryable_and_permanent(error: MilvusException, kind: type[Exception]) -> None:
    answer = translate(error)
    assert type(answer) is kind
    assert str(answer) == f"Milvus: {error.message}"


def test_connection_error_is_retryable_and_has_a_message() -> None:
    assert type(translate(grpc.RpcError())) is Retryable
    assert str(translate(grpc.RpcError())) == "Milvus: RpcError"


def test_only_codes_101_and_201_mean_not_loaded() -> None:
    assert is_not_loaded(MilvusException(101, "collection not loaded"))
    assert is_not_loaded(MilvusException(201, "partition not loaded"))
    assert not is_not_loaded(MilvusException(103, "collection not fully loaded"))
    assert not is_not_loaded(grpc.RpcError())
