"""The servers of the compose stack without Docker: `python -m compose.native up`, from the repository's root."""
