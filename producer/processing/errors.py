"""The root error of processing."""

from producer.errors import ProducerError


class ProcessingError(ProducerError):
    """Raised when a file or text cannot become chunks with vectors. Skip it: another attempt would fail too."""
