"""Preloaded by the server that forks the tests' commands: imports all modules that a command imports.

The garbage collector of a fork ignores frozen objects; otherwise it would copy their memory.
"""
# ruff: noqa: F401

import gc

import operations.demo.demo
import operations.init
import operations.status
import operations.web.console.server
import schema.object_store.s3
import tests.support.commands

gc.freeze()
