"""docs/settings.md, made from the settings class: `python -m operations.settings.page > docs/settings.md`."""

import sys
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from operations.settings.fields import PREFIX, Settings

_HEAD = """\
# Settings

<!-- Made by `make settings` from operations/settings/fields.py and embedder_fields.py. Change them, not this page. -->

Every process reads its settings once, when it starts: from environment variables, then from a file `.env` in the
current folder. A variable wins over the file. A setting that this page does not name, or an empty value, is an error:
the command names it and ends with status 2.

The profile is `services` as soon as one server is set (Kafka, MySQL, Milvus or S3), else `embedded`. In the services
profile a process refuses to start while a store that it uses is not set; a local one must be written out, as
`sqlite:////path/metadata.db` or `file:///path`. With `RAG_OUTBOX_PROFILE=embedded` every store that is not set is a
local one in the data folder, next to servers too; only Kafka cannot be set then.

Which process needs which setting: [operations.md](operations.md#what-each-process-needs).

| variable | meaning | value | default |
|---|---|---|---|
"""
_TAIL = """\

A value that is marked *secret* appears in no log line and no error message.

## Kafka client

Every variable `RAG_OUTBOX_KAFKA_<PROPERTY>` sets a property of librdkafka, with underscores for dots:
`RAG_OUTBOX_KAFKA_SECURITY_PROTOCOL=SASL_SSL` sets `security.protocol`. A property that librdkafka does not have
is an error. The properties that the guarantees depend on (`enable.idempotence`, `acks`, `isolation.level`,
`enable.auto.commit`, the assignment strategy, group and transaction names) cannot be changed.

## Only for development

`RAG_OUTBOX_SERVERS_CACHE` is the folder where `make servers` keeps the programs that it fetched.
`RAG_OUTBOX_TEST_SERVERS` is the path of an environment file, as `make servers` writes it: the tests then use those
servers and start none.
"""


def page() -> str:
    """The page in Markdown."""
    own = [name for name in Settings.model_fields if name in Settings.__annotations__]
    inherited = [name for name in Settings.model_fields if name not in own]
    rows = [_row(name, Settings.model_fields[name]) for name in own + inherited]
    return _HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows) + _TAIL


def _row(name: str, field: FieldInfo) -> tuple[str, str, str, str]:
    extra: Any = field.json_schema_extra
    secret = " *Secret.*" if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ())) else ""
    default = extra["unset"] if field.default is None else f"`{_written(field.default)}`"
    return f"`{PREFIX}{name.upper()}`", f"{field.description}{secret}", extra["unit"], default


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.stdout.write(page())
