"""The child process that serves one Milvus Lite folder: `python -m operations.milvus_lite.server FOLDER ENDPOINT`.

It prints one line of JSON, {"uri": …} or {"locked": true}, and ends when its standard input closes, which its parent's
end does. The file ENDPOINT holds {"uri": …} while it serves.
"""

import json
import logging
import os
import signal
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path

_GRACE_SECONDS = 2.0


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("grpc._server").setLevel(
        logging.CRITICAL
    )  # it logs a traceback per call that Milvus Lite does not offer
    folder, endpoint = map(Path, sys.argv[1:])
    _leave_pymilvus_unloaded()
    from milvus_lite.adapter.grpc.server import start_server_in_thread
    from milvus_lite.exceptions import DataDirLockedError

    try:
        server, database, port = start_server_in_thread(str(folder), port=0)
    except DataDirLockedError:
        _answer({"locked": True})
        return 1
    part = endpoint.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps({"uri": f"http://127.0.0.1:{port}"}))
    part.replace(endpoint)
    _answer({"uri": f"http://127.0.0.1:{port}"})
    sys.stdin.buffer.read()
    endpoint.unlink(missing_ok=True)
    server.stop(_GRACE_SECONDS).wait()
    database.close()
    return 0


def _leave_pymilvus_unloaded() -> None:
    """Milvus Lite needs only `pymilvus.grpc_gen`; importing the rest would double its start and cost 45 MB."""
    spec = find_spec("pymilvus")
    assert spec is not None
    sys.modules["pymilvus"] = module_from_spec(spec)


def _answer(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
