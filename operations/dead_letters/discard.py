"""Discards dead letters: they no longer need a person. The operation log keeps who decided it, and why."""

from sqlalchemy import Connection, insert

import producer
from operations.dead_letters.letters import Letter, close
from operations.wiring import System
from schema.database.tables import operation_logs, outbox_dead_letters


def discard(system: System, letter: Letter, reason: str) -> None:
    """One transaction. Raises NotOpen."""
    letter.require_open()
    row = letter.row
    facts = {"stage": row.stage, "event_id": row.event_id, "version": row.aggregate_version, "reason": reason}
    log = {
        "operation_type": "DELETE",
        "target_table": outbox_dead_letters.name,
        "target_id": letter.doc_id,
        "payload": facts,
        "operator": system.operator,
    }

    def work(connection: Connection) -> None:
        close(connection, [letter.id], "discarded", system.operator, reason)
        connection.execute(insert(operation_logs), [log])

    producer.run(system.engine, work)
