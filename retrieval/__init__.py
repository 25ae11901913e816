"""The read side: search, with the documents that the hits belong to."""
