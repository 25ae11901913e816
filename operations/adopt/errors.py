"""The errors of `rag-outbox adopt`: what stops the command, and what fails one document."""

from operations.errors import OperationError, UsageError


class MappingError(UsageError):
    """Raised when the mapping file is wrong, or does not fit the old stores. Nothing was written: correct the file."""


class SourceError(OperationError):
    """Raised when an old store cannot be read. Run the command again: it continues where it stopped."""


class BadDocument(Exception):
    """Raised when one document cannot be adopted; the message says why. The other documents go on."""
