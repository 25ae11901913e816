"""The stores that consumers bring up to date; a document is completed when each of them holds its version."""

MILVUS = "milvus"
MINIO = "minio"
SINKS = (MILVUS, MINIO)
