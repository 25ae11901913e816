"""What can go wrong with a server."""


class ServerError(Exception):
    """Raised when a server cannot be started, made ready or stopped; the message tells where its log is."""


class Unavailable(ServerError):
    """Raised when this machine cannot have a server: a tool, the network or the right architecture is missing."""
