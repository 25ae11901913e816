"""The errors of the native servers."""


class ServerError(Exception):
    """Raised when a server cannot be started, made ready or stopped; the message names its log."""


class Unavailable(ServerError):
    """Raised when this machine cannot run a server: a tool, the network or the right architecture is missing."""
