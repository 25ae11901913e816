"""The root error of processing: what a caller catches to skip one file and go on with the next."""

from producer.errors import ProducerError


class ProcessingError(ProducerError):
    """A file or text cannot become chunks with vectors; trying again without a change will not help."""
