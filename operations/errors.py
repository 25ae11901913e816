"""Messages for the person whose command failed."""

import sys
import tempfile
import traceback
from pathlib import Path


class OperationError(Exception):
    """The root of all errors that a command raises on purpose. The message is for the person who ran it."""


class UsageError(OperationError):
    """Raised for a wrong argument, option or file of settings; the message names it. The command ends with status 2."""


def describe(error: Exception) -> str | None:
    """One line about an error that correct code can meet, for instance a store that is down; None for a bug."""
    from filelock import Timeout
    from sqlalchemy.exc import DBAPIError

    from producer import ProducerError
    from schema.database.revision import SchemaError
    from schema.failures import Permanent, Retryable, StoreMissing, TooManyDeadLetters
    from schema.ownership import OtherSystem

    if isinstance(error, DBAPIError):
        return f"metadata database: {error.orig}"
    if _is(error, "schema.kafka.topics", "TopicDiffers"):
        return str(error)
    if _is(error, "confluent_kafka", "KafkaException"):
        return f"Kafka: {error.args[0].str()}"
    if _is(error, "pymilvus.exceptions", "MilvusException"):
        return f"Milvus: {getattr(error, 'message', error)}"
    if _is(error, "grpc", "RpcError"):  # pymilvus does not wrap all of them: a deadline, for instance
        from consumers.milvus.errors import translate

        return str(translate(error))
    if _is(error, "minio.error", "MinioException") or _is(error, "urllib3.exceptions", "HTTPError"):
        return f"object store: {error}"
    ours = (
        OperationError,
        ProducerError,
        TooManyDeadLetters,
        Permanent,
        Retryable,
        StoreMissing,
        OtherSystem,
        SchemaError,
    )
    return str(error) if isinstance(error, (*ours, OSError, Timeout)) else None


def report_bug(error: Exception) -> str:
    """Write the traceback to a file. Returns one line that describes the bug and names the file."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    line = f"unexpected {type(error).__name__}{place}: {error}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="rag-outbox-", suffix=".log", delete=False) as log:
            traceback.print_exception(error, file=log)
    except OSError:
        return line
    return f"{line}; please report it with {log.name}"


def _is(error: Exception, module: str, name: str) -> bool:
    """`isinstance` for a class of a module that is slow to import; without an import, no such error exists."""
    return module in sys.modules and isinstance(error, getattr(sys.modules[module], name))
