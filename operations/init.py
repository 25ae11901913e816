"""`rag-outbox init`: create tables, collection, bucket and topics, and store the embedding model. May be repeated."""

from contextlib import closing

from sqlalchemy import insert, select

from consumers.milvus.sink import MilvusSink
from consumers.minio.sink import MinioSink
from operations import wiring
from operations.settings import Settings
from schema.database import migrate
from schema.database.tables import embedding_model
from schema.kafka import topics


def init(settings: Settings) -> list[str]:
    """Create what is missing. Returns a line per harmless difference between a topic and what init would create.

    Raises WrongModel if the system has another embedding model, TopicDiffers if a topic cannot be used.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with wiring.open_system(settings, initialised=False) as system:
        migrate.upgrade(system.engine)
        with system.engine.begin() as connection:
            if connection.execute(select(embedding_model)).one_or_none() is None:
                row = {"id": 1, "name": settings.embedding_model, "dimension": settings.vector_dimension}
                connection.execute(insert(embedding_model), row)
    with wiring.open_system(settings) as system:
        system.with_milvus(lambda client: MilvusSink(client, settings.vector_dimension).ensure())
        with closing(MinioSink(system.store)) as sink:
            sink.ensure()
    return [] if settings.kafka is None else topics.ensure(settings.kafka, settings.names)
