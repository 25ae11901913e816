"""The object store: its port, the layout of the bucket, and two implementations."""
