"""What the process that forks for the tests' commands holds from its start: all modules that a command imports.

Frozen, they are no work for a fork's garbage collector, which would also copy the memory that they stand in.
"""
# ruff: noqa: F401

import gc

import operations.demo.demo
import operations.init
import operations.status
import schema.object_store.s3
import tests.support.commands

gc.freeze()
