"""Relays publish outbox rows, to Kafka or straight to the sinks, and settle them: remove those that are published."""
