"""Erase: remove the text that a document no longer has, everywhere and at once."""
