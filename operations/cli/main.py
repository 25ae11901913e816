"""The console script: run a command, and end Ctrl-C, a closed pipe and every error without a traceback.

It imports nearly everything inside `main`, so that Ctrl-C during those imports ends in one line, too.
Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 `history check`, `reconcile`, `rebuild` or `backup` found
something, 130 interrupted.
"""

import signal
import sys

from operations.cli.interrupt import Interrupted


def main() -> None:
    """Run the command that the arguments name, and end the process."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a background job of a script ignores it
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from operations.cli import app

        status = app.run_command()
        if signal.getsignal(signal.SIGINT) is _interrupt:  # its exception would be printed while the interpreter ends
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    except Interrupted as interrupted:
        import json

        if "--json" in sys.argv:
            sys.stdout.write(json.dumps({"error": "interrupted", **interrupted.done}) + "\n")
        sys.stderr.write(f"rag-outbox: interrupted{interrupted.summary}\n")
        status = 130
    sys.exit(_flush(status))


def _interrupt(*_: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the second Ctrl-C ends the process at once
    raise Interrupted


def _flush(status: int) -> int:
    """Flush stdout. Returns the exit status, which becomes 1 if the reader has closed the pipe."""
    import os

    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again
        return 1
    return status


if __name__ == "__main__":
    main()
