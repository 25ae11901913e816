"""Run all benchmarks, one after another. Exit status: 0 all succeeded, 1 one or more failed."""

import subprocess
import sys
import time

from benchmarks import report
from benchmarks.system import ROOT, servers

NAMES = (
    "relay",
    "metrics",
    "latency",
    "writer",
    "consumer",
    "end_to_end",
    "growth",
    "scale",
    "update",
    "minio",
    "reconcile",
)


def main() -> int:
    options = report.arguments(__doc__)
    servers(options.servers)
    arguments = ["--servers", str(options.servers.resolve())]
    arguments += ["--quick"] * options.quick + ["--keep"] * options.keep
    failed = []
    for number, name in enumerate(NAMES, start=1):
        print(f"[{number}/{len(NAMES)}] {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=ROOT, check=False)
        if done.returncode:
            failed.append(name)
        outcome = f"failed with {done.returncode}" if done.returncode else "done"
        print(f"[{number}/{len(NAMES)}] {name} {outcome}, {time.monotonic() - began:.0f} s", file=sys.stderr)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
