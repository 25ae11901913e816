"""Run long drills on real servers, one after another; all of them if none is named.

Each is also a command of its own with more options: python -m tests.drills.NAME --help
Exit status: 0 all succeeded, 1 one or more failed, 2 wrong usage.
"""

import argparse
import importlib
import pkgutil
import subprocess
import sys
import time

from benchmarks.system import ROOT
from tests import drills
from tests.drills import result


def find_names() -> list[str]:
    """Every module of this package that has a `main`."""
    modules = (found.name for found in pkgutil.iter_modules(drills.__path__) if not found.name.startswith("_"))
    return [name for name in modules if hasattr(importlib.import_module(f"tests.drills.{name}"), "main")]


def main() -> int:
    names = find_names()
    parser = argparse.ArgumentParser(
        "python -m tests.drills", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of a drill: {', '.join(names)}")
    result.add_options(parser)
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in names]:
        parser.error(f"there is no drill {', '.join(unknown)}; there are: {', '.join(names)}")
    failed = []
    for name in options.names or names:
        sys.stderr.write(f"{name} …\n")
        began = time.monotonic()
        command = [sys.executable, "-m", f"tests.drills.{name}", *result.arguments_of(options)]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        outcome = f"failed with {status}" if status else "succeeded"
        sys.stderr.write(f"{name} {outcome} after {time.monotonic() - began:.0f} s\n")
        if status:
            failed.append(name)
    if failed:
        sys.stderr.write(f"failed: {', '.join(failed)}\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
