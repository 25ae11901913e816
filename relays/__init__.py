"""Relays: they carry outbox rows to where consumers read them, and remove them once they have arrived."""
