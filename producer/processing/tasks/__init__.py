"""The task queue: an uploaded file becomes text, chunks and vectors, step by step, in any number of workers."""
