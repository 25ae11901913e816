"""Retention: what the system keeps for its operation is removed after a while; one file per policy."""
