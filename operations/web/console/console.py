"""What all pages of one console share."""

from dataclasses import dataclass

from operations.web.console.access import Access
from operations.web.console.checks import Checks
from operations.web.console.live import Sampler
from operations.web.console.sessions import Session, Sessions
from operations.wiring import System
from schema.limits import OPERATOR_CHARACTERS

_SUFFIX = " (console)"


@dataclass(frozen=True)
class Console:
    """`cookie` is the name of the session's cookie: consoles on other ports of this host need other ones."""

    system: System
    sampler: Sampler
    checks: Checks
    sessions: Sessions
    access: Access
    cookie: str

    def system_of(self, session: Session) -> System:
        """The system as this operator changes it: `operation_logs` keeps who it was."""
        return self.system.acting_as(operator_of(session))


def operator_of(session: Session) -> str:
    return session.operator[: OPERATOR_CHARACTERS - len(_SUFFIX)] + _SUFFIX
