"""What travels from the outbox to the sinks: events, identities and their encodings."""
