"""Where a system's stores are, for a person: without passwords, keys and tokens."""

from urllib.parse import urlsplit

from sqlalchemy import URL

from operations.settings.fields import Settings


def places(settings: Settings) -> dict[str, str | None]:
    """Store → its place; Kafka's is None in the embedded profile."""
    url = settings.database
    database = URL.create(url.drivername, url.username, host=url.host, port=url.port, database=url.database)
    topics = f"{settings.kafka_bootstrap_servers}, topics {settings.namespace}.*"
    milvus = (
        _without_user(settings.milvus_uri) if settings.milvus_lite is None else f"Milvus Lite {settings.milvus_lite}"
    )
    objects = _without_user(settings.object_store) if settings.objects is None else str(settings.objects.parent)
    return {
        "database": database.database if database.get_backend_name() == "sqlite" else database.render_as_string(),
        "kafka": topics if settings.kafka is not None else None,
        "milvus": f"{milvus}, collection {settings.collection_alias}",
        "object_store": f"{objects}, bucket {settings.bucket}",
    }


def _without_user(url: str | None) -> str:
    parts = urlsplit(url or "")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
