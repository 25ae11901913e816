"""The Milvus sink: rows, requests, the collection, and what errors mean."""
