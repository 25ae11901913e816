"""Which system a store belongs to: `init` writes the system id into every store, and the start of a process checks it.

So a process with the settings of another system stops before it reads or writes anything there.
"""


class OtherSystem(Exception):
    """Raised when a store belongs to another system, or to none: the process stops, and nothing is changed."""


def require_own(store: str, owner: str, system_id: str, *, separate: str) -> None:
    """Raises OtherSystem unless `owner`, the system id that `store` carries, is `system_id`.

    `store` describes the store; `separate` names the settings that give this system a store of its own.
    """
    if owner != system_id:
        raise OtherSystem(
            f"{store} belongs to the system {owner}: set another {separate}. If a new database replaces the lost one "
            f"of that system, run rag-outbox init --system-id {owner} on it"
        )
