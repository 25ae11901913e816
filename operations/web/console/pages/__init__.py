"""One file per page, with the actions that it offers."""
