"""Rebuild a sink, add one, remove one: how the table `sinks` changes while writers and consumers go on."""
