"""The server of Milvus Lite leaves pymilvus unloaded, except its protocol: see docs/decisions/0003."""

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PROTOCOL = "pymilvus.grpc_gen"
SERVER = """
import json, sys
from operations.milvus_lite import server
server._leave_pymilvus_unloaded()
import milvus_lite.adapter.grpc.server
print(json.dumps([name for name in sys.modules if name.startswith("pymilvus.")]))
"""


def imported_names(path: Path) -> set[str]:
    """Every module, or name in a module, that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "pymilvus"}


def test_server_loads_nothing_of_pymilvus_but_its_protocol() -> None:
    done = subprocess.run([sys.executable, "-c", SERVER], check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout)
    assert PROTOCOL in loaded
    assert [name for name in loaded if not name.startswith(PROTOCOL)] == []


def test_milvus_lite_never_imports_the_rest_of_pymilvus() -> None:
    """Not even inside a function that a request calls later; its command-line tools may."""
    spec = find_spec("milvus_lite")
    assert spec is not None
    assert spec.origin is not None
    files = [path for path in Path(spec.origin).parent.rglob("*.py") if path.name != "cmdline.py"]
    found = {name for path in files for name in imported_names(path)}
    assert found, "it takes its protocol from pymilvus"
    assert [name for name in found if not name.startswith(PROTOCOL)] == []
