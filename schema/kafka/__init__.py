"""Kafka: names of topics and groups, client settings, creation of topics."""
