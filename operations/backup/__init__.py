"""Backups of the metadata database and the files, and their restore."""
