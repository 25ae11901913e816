"""The contract between writers, relays and consumers: tables, events, collection and bucket layout."""
