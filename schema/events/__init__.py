"""The events that go from the outbox to the sinks: their structure, identities and encodings."""
