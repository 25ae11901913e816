"""What the sinks hold after a restore: what the topic tells of the lost history, and the refills."""
