"""Dead letters of every stage: list and show them, replay their documents, discard them."""
