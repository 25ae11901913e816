"""MySQL's own mysqldump and mysql, which `rag-outbox backup` runs: scripts that start them with their own loader."""

import platform
import shlex
from pathlib import Path

PROGRAMS = ("mysqldump", "mysql")
LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}


def write_scripts(root: Path, folder: Path) -> Path:
    """Write a script per program of the unpacked packages in `root`. Returns `folder`."""
    machine = platform.machine()
    libraries = root / "usr" / "lib" / f"{machine}-linux-gnu"
    loader = [libraries / LOADERS[machine], "--library-path", libraries]
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        command = shlex.join(str(part) for part in (*loader, root / "usr" / "bin" / name))
        part = folder / f"{name}.part"
        part.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        part.chmod(0o755)
        part.replace(folder / name)
    return folder
