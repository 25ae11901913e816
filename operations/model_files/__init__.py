"""The files of embedding models in the bucket, below `models/`: put there once, fetched by every machine."""
