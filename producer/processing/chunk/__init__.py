"""Text into chunks: the port, one file per strategy, and what the strategies share."""
