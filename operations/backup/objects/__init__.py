"""The objects of a backup: their list, their copy, and those that are lacking after a restore."""
