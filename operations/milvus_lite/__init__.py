"""Milvus Lite for the embedded profile, as a child process."""
