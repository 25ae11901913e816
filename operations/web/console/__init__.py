"""The console: pages that show the state of a system, find a document, and mend it."""
