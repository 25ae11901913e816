"""The rag-outbox command, its settings, and the wiring of the other packages."""
