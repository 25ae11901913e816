"""Moves the documents of an existing platform into this system, with the vectors that they have."""
