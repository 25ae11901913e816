"""Erase: remove the text that a document does not have any more, everywhere and at once."""
