"""Consumers: they bring the sinks to the state that the events tell, and mark it in the metadata database."""
