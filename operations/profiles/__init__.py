"""The processes of each profile: embedded, and services."""
