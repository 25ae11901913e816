"""The long-running processes of each profile: embedded and services."""
