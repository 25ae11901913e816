"""Reconcile: compare the metadata database with every sink, report the differences, and repair them."""
