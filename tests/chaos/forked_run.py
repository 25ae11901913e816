"""Starts `rag-outbox run` for each line on stdin, and answers with its process id.

It forks a process that has imported everything, and started nothing: so a start does not cost the second of imports.
"""

import os
import signal
import sys

import pymilvus  # noqa: F401
import wordllama  # noqa: F401

from operations import command, run  # noqa: F401


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead need no wait
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(0, 1)
            sys.argv = ["rag-outbox", "run"]
            command.main()
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
