"""What the process that forks for the tests' commands holds from its start: all modules that a command may import.

Frozen, they are no work for a fork's garbage collector, which would also copy the memory that they stand in.
"""

import gc

import grpc.experimental
import typer._adapters

import operations.demo
import operations.init
import operations.status
import schema.object_store.s3
import tests.commands

__all__ = ["grpc", "operations", "schema", "tests", "typer"]

gc.freeze()
