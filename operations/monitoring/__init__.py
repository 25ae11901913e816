"""What operators see of a running process: metrics, health, and the backlog of the system."""
