"""Documents from files and from JSON lines."""
