"""Text into vectors: the port, and the default model."""
