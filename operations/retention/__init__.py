"""Retention: what the system keeps for its operation goes after a while; one file per policy."""
