"""The console as an operator starts it: `rag-outbox serve`, or `run --console`, in a process of its own."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.commands import Folder, Running
from tests.support.console import TOKEN_SHA256
from tests.support.waiting import wait_for


@dataclass(frozen=True)
class Served:
    """`url` ends with a slash."""

    url: str
    process: Running


@contextmanager
def serving(folder: Folder, *options: str) -> Iterator[Served]:
    """`rag-outbox serve` on a free port."""
    with folder.start("serve", "--port", "0", "--json", *options, console_token_sha256=TOKEN_SHA256) as process:
        wait_for(lambda: process.out.endswith("\n") or process.err, "the console's address")
        yield Served(json.loads(process.out)["url"], process)


@contextmanager
def running(folder: Folder) -> Iterator[Served]:
    """`rag-outbox run --console` on a free port."""
    command = ("run", "--console", "--console-port", "0")
    with folder.start(*command, console_token_sha256=TOKEN_SHA256) as process:
        [address] = wait_for(lambda: re.findall(r"Console: (http://\S+)\n", process.err), "the console's address")
        yield Served(address, process)
