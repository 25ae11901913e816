"""Errors of backups. Each is shown to the person who runs the command."""

from operations.errors import OperationError


class BackupFailed(OperationError):
    """Raised when a backup cannot be made; there is no manifest, so nobody takes it for a complete one."""


class BackupUnusable(OperationError):
    """Raised when a backup cannot be read or restored, or there is none; the message says what is wrong with it."""


class NotEmpty(OperationError):
    """Raised when the database to restore into has tables already; the message says what to do."""


class OtherBackup(OperationError):
    """Raised when a backup belongs to another system or namespace than the settings; the message names both."""


class ClientUnusable(OperationError):
    """Raised when MySQL's own mysqldump or mysql is missing, or another program has its name."""
