"""Turns files into chunks with vectors before a document is written: extract, chunk, embed.

Nothing here uses a store, so all of it runs before the writer's transaction begins.
"""
