"""Who is signed in: one operator per session, in the memory of this process. A restart signs everybody out."""

import hashlib
import hmac
import secrets
import threading
import time
from dataclasses import dataclass, field

_HOURS = 12.0
_MOST = 200  # sessions; the oldest ends
_NOTES = 20  # messages that wait for their page


@dataclass(frozen=True)
class Note:
    """A message about an action; `level` is done or failed."""

    level: str
    text: str


@dataclass(frozen=True)
class Session:
    """`key` is the value of the cookie; `secret` never leaves this process."""

    key: str
    operator: str
    ends_at: float  # by the monotonic clock
    secret: bytes = field(repr=False)
    notes: list[Note] = field(default_factory=list)

    def form_token(self, path: str) -> str:
        """What a form that is sent to `path` must bring along: no other site can know it."""
        return hmac.new(self.secret, path.encode(), hashlib.sha256).hexdigest()

    def accepts(self, path: str, token: str) -> bool:
        return hmac.compare_digest(self.form_token(path).encode(), token.encode(errors="replace"))

    def note(self, level: str, text: str) -> None:
        """Keep a message for the next page of this session."""
        self.notes.append(Note(level, text))
        del self.notes[:-_NOTES]

    def take_notes(self) -> list[Note]:
        taken, self.notes[:] = list(self.notes), []
        return taken


class Sessions:
    """Gives a session to everybody who knows the token; without a token nobody can sign in."""

    def __init__(self, token_sha256: str | None) -> None:
        self._digest = token_sha256
        self._lock = threading.Lock()
        self._by_key: dict[str, Session] = {}

    @property
    def has_token(self) -> bool:
        return self._digest is not None

    def sign_in(self, token: str, operator: str) -> Session | None:
        """None if the token is wrong."""
        given = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        if self._digest is None or not hmac.compare_digest(given, self._digest):
            return None
        ends_at = time.monotonic() + _HOURS * 3_600
        session = Session(secrets.token_urlsafe(32), operator, ends_at, secrets.token_bytes(32))
        with self._lock:
            self._by_key[session.key] = session
            while len(self._by_key) > _MOST:
                del self._by_key[next(iter(self._by_key))]
        return session

    def find(self, key: str | None) -> Session | None:
        with self._lock:
            session = self._by_key.get(key or "")
            if session is not None and time.monotonic() >= session.ends_at:
                del self._by_key[session.key]
                return None
            return session

    def sign_out(self, session: Session) -> None:
        with self._lock:
            self._by_key.pop(session.key, None)


def make_token() -> tuple[str, str]:
    """A new token with 256 random bits, and its SHA-256 in hexadecimal digits."""
    token = secrets.token_urlsafe(32)
    return token, hashlib.sha256(token.encode()).hexdigest()
