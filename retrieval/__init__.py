"""The read side: search, with the document of each hit."""
