"""Kill processes at random moments, with a new seed in every round, by the tests of `tests/chaos/`.

A round kills `rag-outbox run` thirty times in the embedded profile, and relays and consumers on real servers.
Afterwards the stores must hold what was committed. A seed that fails is printed: with it in RAG_OUTBOX_TEST_SEED, the
tests repeat its round.
"""

import os
import random
import subprocess
import sys
import time

from benchmarks.system import ROOT
from tests.drills import result
from tests.support.servers import VARIABLE

_TESTS = ("tests/chaos/test_random_kills.py", "tests/chaos/test_services.py")


def main() -> int:
    options = result.read_options(__doc__, rounds=(10, "rounds"))
    result.find_servers(options)
    path = os.environ.get(VARIABLE) or str((options.servers / "servers.env").resolve())
    failed, began = [], time.monotonic()
    for number in range(1, options.rounds + 1):
        seed = str(random.randrange(2**32))
        environment = os.environ | {VARIABLE: path, "RAG_OUTBOX_TEST_SEED": seed, "CI": "true"}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_TESTS]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        last = (done.stdout.splitlines() or ["no output"])[-1]
        sys.stderr.write(f"[{number}/{options.rounds}] seed {seed}: {last}\n")
        if done.returncode:
            failed.append(seed)
            sys.stderr.write(done.stdout)
    facts = {
        "rounds": str(options.rounds),
        "failed rounds": str(len(failed)),
        "seeds that failed": ", ".join(failed) or "none",
        "seconds": f"{time.monotonic() - began:,.0f}",
    }
    return result.show("kills", facts, succeeded=not failed, keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
