"""What `list`, `show` and `resync` read and write of documents."""
