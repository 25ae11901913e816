"""The documents that benchmarks write: chunks of some 550 characters with random vectors."""

import numpy as np

from producer import Chunk, Document

DIMENSION = 1_024
CHUNKS = 10
WORDS = "The relay publishes outbox rows to Kafka, exactly once and in order. " * 8


def document(doc_id: str, random: np.random.Generator, chunks: int = CHUNKS, dimension: int = DIMENSION) -> Document:
    return Document(
        doc_id=doc_id,
        title=f"Document {doc_id}",
        source_type="text",
        chunks=[
            Chunk(content=f"{doc_id}-{chunk} {WORDS}", vector=random.random(dimension, "f4")) for chunk in range(chunks)
        ],
    )
