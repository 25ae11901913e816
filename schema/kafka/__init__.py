"""Kafka: names of topics and groups, settings of clients, creation of topics."""
