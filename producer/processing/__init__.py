"""Turns files into chunks with vectors before a document is written: extract, chunk, embed.

Nothing here touches a store, so all of it runs before the writer's transaction opens.
"""
