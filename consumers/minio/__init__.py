"""The object-store sink: files at their final keys, and the archive of vectors."""
