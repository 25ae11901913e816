"""What people and supervisors run: the rag-outbox command, its settings, and the wiring of the packages."""
