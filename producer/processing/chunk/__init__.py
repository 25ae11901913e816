"""Text into chunks."""
