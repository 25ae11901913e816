"""What stops a rebuild, or a change of the sinks. Nothing is lost: the same command continues."""

from operations.errors import OperationError


class NotPossible(OperationError):
    """Raised when the state of the sinks does not allow the change; the message names the command to run first."""


class Stalled(OperationError):
    """Raised when nothing moved for the time that was given; the message says what is missing."""


class StoresDiffer(OperationError):
    """Raised when the new collection still differs from MySQL after repairs; the roles stay as they are."""

    def __init__(self, message: str, differences: int) -> None:
        super().__init__(message)
        self.differences = differences
