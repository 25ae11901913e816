"""Embeddings from a server that speaks OpenAI's `/v1/embeddings`: OpenAI, vLLM, TEI, Ollama, LocalAI and others.

Over urllib3, which minio needs too: no further package, and time limits that hold for each block. The key is sent to
this server only (redirects are refused) and is in no error message.
"""

import base64
import binascii
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import certifi
import msgspec
import numpy as np
import urllib3
from urllib3.exceptions import HTTPError

from producer.processing.embed.batches import split
from producer.processing.embed.port import EmbedderUnavailable, EmbedError, Vectors, check_text
from schema.object_store.connections import pool_manager
from schema.retry import Backoff

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
_BATCH_TEXTS = 32  # text-embeddings-inference takes no more with its defaults
_CONNECTIONS = 16  # kept open, for as many threads
_ATTEMPTS = 5
_BACKOFF = Backoff(1.0, 20.0)
_MOST_WAIT_SECONDS = 60.0  # for a server that asks for more by Retry-After
_REFUSED = {400, 413, 422}  # a text may be at fault
_BUSY = {408, 425, 429}  # and 5xx but 501
_VALUE_BYTES = 32  # of a number in JSON, at most
_MESSAGE_CHARACTERS = 300
_PROBE = "test"  # a text that every model embeds


class _Item(msgspec.Struct):
    index: int
    embedding: list[float] | str  # base64 of little-endian float32


class _Answer(msgspec.Struct):
    data: list[_Item]


class _Refused(Exception):
    """Raised when the server refuses a request for what it says."""


class _TryAgain(Exception):
    """Raised when the same request may succeed after `seconds`, None if the server does not say when."""

    def __init__(self, reason: str, seconds: float | None = None) -> None:
        super().__init__(reason)
        self.seconds = seconds


class OpenAiEmbedder:
    """`Embedder` over HTTP. Thread-safe.

    `url` ends before `/embeddings`: `http://host:8000/v1`. `model` is the system's name of the model, `server_model`
    the server's, if it has another one. A request that finds the server away or busy is made again, at most 5 times
    and not before the server's `Retry-After`; then EmbedderUnavailable is raised. Everything else that is wrong raises
    EmbedError.
    """

    def __init__(
        self,
        url: str,
        model: str,
        dimension: int,
        *,
        key: str | None = None,
        server_model: str | None = None,
        read_seconds: float = READ_SECONDS,
        backoff: Backoff = _BACKOFF,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        if key is not None and not is_key(key):
            raise ValueError("key must be printable ASCII without spaces")  # http.client would quote it in its error
        self.model = model
        self.dimension = dimension
        self._url = f"{url.rstrip('/')}/embeddings"
        self._key = key
        self._server_model = server_model or model
        self._read_seconds = read_seconds
        self._backoff = backoff
        self._pause = pause
        self._pool = pool_manager(
            maxsize=_CONNECTIONS,
            timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, read_seconds), read=read_seconds),
            cert_reqs="CERT_REQUIRED",
            ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`. A text that the server refuses has no vector."""
        for index, text in enumerate(texts):
            check_text(text, index)
        vectors = np.empty((len(texts), self.dimension), dtype=np.float32)
        for start, batch in split(texts, most_texts=_BATCH_TEXTS):
            try:
                vectors[start : start + len(batch)] = self._embed_batch(batch)
            except EmbedError as error:
                raise error.moved(start) from error
        return vectors

    def _embed_batch(self, texts: Sequence[str]) -> Vectors:
        """Halve a batch that the server refuses, until the text at fault is known."""
        try:
            return self._request(texts)
        except _Refused as refused:
            if len(texts) == 1:
                raise EmbedError(str(refused), index=0 if self._embeds_probe() else None) from refused
        half = len(texts) // 2
        first = self._embed_batch(texts[:half])
        try:
            return np.concatenate([first, self._embed_batch(texts[half:])])
        except EmbedError as error:
            raise error.moved(half) from error

    def _embeds_probe(self) -> bool:
        """Whether the server accepts any text at all; else its settings are at fault."""
        try:
            self._request([_PROBE])
        except _Refused:
            return False
        return True

    def _request(self, texts: Sequence[str]) -> Vectors:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._read_vectors(self._post(texts), len(texts))
            except _TryAgain as error:
                if attempt == _ATTEMPTS:
                    raise EmbedderUnavailable(f"{self._url}: {error} ({_ATTEMPTS} attempts)") from error
                wait = self._backoff.seconds(attempt) if error.seconds is None else error.seconds
                self._pause(min(wait, _MOST_WAIT_SECONDS))
        raise AssertionError("unreachable")

    def _post(self, texts: Sequence[str]) -> bytes:
        body = msgspec.json.encode({"model": self._server_model, "input": texts, "encoding_format": "float"})
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        most_bytes = 1024 * 1024 + len(texts) * self.dimension * _VALUE_BYTES
        deadline = time.monotonic() + 2 * self._read_seconds
        try:
            response = self._pool.request(
                "POST", self._url, body=body, headers=headers, retries=False, redirect=False, preload_content=False
            )
            try:
                content = _read(response, most_bytes, deadline)
            finally:
                response.close()  # also after half an answer: the connection must not be used again
        except HTTPError as error:
            raise _TryAgain(self._clean(str(error) or type(error).__name__)) from error
        if response.status == 200:
            return content
        self._refuse(response.status, content, response.headers.get("Retry-After"))
        raise AssertionError("unreachable")

    def _refuse(self, status: int, content: bytes, retry_after: str | None) -> None:
        said = f"HTTP status {status}: {self._clean(_message(content))}"
        if status in _BUSY or (status >= 500 and status != 501):
            raise _TryAgain(said, _seconds_until(retry_after))
        if status in _REFUSED:
            raise _Refused(f"the server refuses it, {said}")
        if status in {401, 403}:
            key = "the key" if self._key else "a request without a key"
            raise EmbedError(f"{self._url} refuses {key}, {said}")
        if status == 404:
            raise EmbedError(f"{self._url} or its model {self._server_model!r} does not exist, {said}")
        raise EmbedError(f"{self._url}: {said}")

    def _read_vectors(self, content: bytes, count: int) -> Vectors:
        """The vectors in the order of the texts, normalised. Raises EmbedError."""
        try:
            items = msgspec.json.decode(content, type=_Answer).data
        except msgspec.DecodeError as error:
            raise _TryAgain(f"the answer is not that of /v1/embeddings: {error}") from error
        if sorted(item.index for item in items) != list(range(count)):
            raise EmbedError(f"{self._url}: returned {len(items)} embeddings for {count} texts, or wrong indexes")
        vectors = np.empty((count, self.dimension), dtype=np.float64)
        for item in items:
            values = _values(item.embedding)
            if len(values) != self.dimension:
                raise EmbedError(
                    f"{self._url}: model {self._server_model!r} has {len(values)} dimensions, not {self.dimension}"
                )
            vectors[item.index] = values
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            index = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise EmbedError("the server returned a vector that is zero or not finite", index=index)
        normalised: Vectors = (vectors / lengths).astype(np.float32)
        return normalised

    def _clean(self, text: str) -> str:
        """One short line without the key, which a server may repeat."""
        line = " ".join(text.split())
        if self._key:
            line = line.replace(self._key, "…")
        return line[:_MESSAGE_CHARACTERS]


def is_key(key: str) -> bool:
    """Whether a key can stand in a header."""
    return bool(key) and key.isascii() and key.isprintable() and " " not in key


def _read(response: urllib3.BaseHTTPResponse, most_bytes: int, deadline: float) -> bytes:
    content = bytearray()
    while block := response.read1(64 * 1024, decode_content=True):
        content += block
        if len(content) > most_bytes:
            raise EmbedError(f"the server's answer has more than {most_bytes} bytes")
        if time.monotonic() > deadline:
            raise _TryAgain("the server sends its answer too slowly")
    return bytes(content)


def _values(embedding: list[float] | str) -> Sequence[float] | np.ndarray[tuple[int], np.dtype[np.float32]]:
    if isinstance(embedding, list):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    except (binascii.Error, ValueError) as error:
        raise EmbedError(f"the server returned an embedding that is no base64 of float32: {error}") from error


def _message(content: bytes) -> str:
    """What an error says: servers put it in different places."""
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return content.decode(errors="replace")
    for name in ("error", "message", "detail"):
        while isinstance(found, dict) and name in found:
            found = found[name]
    if isinstance(found, dict) and "message" in found:
        found = found["message"]
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()


def _seconds_until(retry_after: str | None) -> float | None:
    """`Retry-After` in seconds: it is a number of seconds or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())
