"""The rag-outbox command: arguments, help, output and exit status."""
