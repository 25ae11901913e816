"""Chunk strategies compared by known-item retrieval on files that this project did not make."""
