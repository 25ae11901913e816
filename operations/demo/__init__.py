"""`rag-outbox demo`: the whole pipeline on real documents, then a crash drill."""
