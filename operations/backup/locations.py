"""Opens the place of backups: the bucket of the system, or what `--to` and `--from` name."""

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from operations.errors import UsageError
from operations.settings import PREFIX, Settings
from schema.object_store.directory import DirectoryStore
from schema.object_store.port import ObjectStore

FORM = "s3://bucket, http(s)://host:port/bucket or file:///path"


def open_location(settings: Settings, url: str, option: str) -> ObjectStore:
    """The bucket or folder that `url` names. Raises UsageError, which names `option`."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # an address in brackets that is none, or a port that is no number
        raise UsageError(f"{option} {url!r}: must be {FORM}") from None
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{option}: must be {FORM}, without user, password and query; the keys are {PREFIX}BACKUP_ACCESS_KEY and "
            f"{PREFIX}BACKUP_SECRET_KEY"
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise UsageError(f"{option} {url!r}: a file URL needs an absolute path, and three slashes: file:///path")
        return DirectoryStore(Path(unquote(parts.path)))
    return _open_bucket(settings, parts, url, option)


def _open_bucket(settings: Settings, parts: SplitResult, url: str, option: str) -> ObjectStore:
    from schema.object_store import s3

    if parts.scheme == "s3" and parts.netloc and parts.path in ("", "/"):
        if settings.objects is not None:
            raise UsageError(f"{option} {url!r}: {PREFIX}OBJECT_STORE is a folder and has no buckets: give a URL")
        server, bucket = settings.object_store or "", parts.netloc
    elif parts.scheme in ("http", "https") and parts.hostname and parts.path.strip("/").count("/") == 0:
        server, bucket = f"{parts.scheme}://{parts.netloc}", parts.path.strip("/")
    else:
        raise UsageError(f"{option} {url!r}: must be {FORM}")
    if not bucket:
        raise UsageError(f"{option} {url!r}: names no bucket; it must be {FORM}")
    access, secret = settings.backup_access_key, settings.backup_secret_key
    if access is None and secret is None:
        access, secret = settings.object_store_access_key, settings.object_store_secret_key
    if not access or secret is None:
        raise UsageError(f"{option}: a server needs {PREFIX}BACKUP_ACCESS_KEY and {PREFIX}BACKUP_SECRET_KEY")
    client = s3.connect(server, access, secret.get_secret_value(), timeout_seconds=settings.store_timeout_seconds)
    return s3.S3Store(client, bucket)
