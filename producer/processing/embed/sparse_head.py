"""The layer of BGE-M3 that gives each token its weight: `sparse_linear.pt` as PyTorch saved it, or an `.npz` of it.

PyTorch saves a zip file with one pickle and one file per tensor. A pickle can run any code, so this reader resolves
only the three names that such a file needs, and refuses every other one. PyTorch itself is not needed.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from producer.processing.embed.port import EmbedError

NAMES = ("sparse_linear.pt", "sparse_linear.npz")  # the first one that is there is read
_MOST_BYTES = 16 * 1024 * 1024  # of a member of the file; the real one has 2 KiB
_STORAGES = {"HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8", "BFloat16Storage": "<u2"}


class SparseHead(NamedTuple):
    """`relu(hidden @ weight + bias)` is the weight of a token."""

    weight: npt.NDArray[np.float32]  # (dimension,)
    bias: float


def load_sparse_head(folder: Path, dimension: int) -> SparseHead:
    """Read the layer from a folder. Raises EmbedError if it is missing, damaged or of another shape."""
    path = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if path is None:
        raise EmbedError(f"there is no {' or '.join(NAMES)} in {folder}")
    try:
        tensors = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
        weight = np.asarray(tensors["weight"], dtype=np.float32)
        bias = np.asarray(tensors["bias"], dtype=np.float32)
    except Exception as error:  # a damaged pickle raises anything
        raise EmbedError(f"cannot read {path}: {error or type(error).__name__}") from error
    if weight.shape != (1, dimension) or bias.shape != (1,):
        raise EmbedError(f"{path}: weight must be (1, {dimension}) and bias (1,), are {weight.shape} and {bias.shape}")
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise EmbedError(f"{path}: holds a value that is not finite")
    return SparseHead(weight[0], float(bias[0]))


def _read_npz(path: Path) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as file:
        for member in file.namelist():
            _require_small(file, member)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ("weight", "bias")}


def _read_torch(path: Path) -> Mapping[str, Any]:
    with zipfile.ZipFile(path) as file:
        [member] = [name for name in file.namelist() if name.endswith("/data.pkl")]
        _require_small(file, member)
        with file.open(member) as stream:
            found = _Unpickler(stream, file, member.removesuffix("data.pkl")).load()
    if not isinstance(found, Mapping):
        raise pickle.UnpicklingError(f"holds a {type(found).__name__} instead of named tensors")
    return found


def _require_small(file: zipfile.ZipFile, member: str) -> None:
    if file.getinfo(member).file_size > _MOST_BYTES:
        raise ValueError(f"{member} has more than {_MOST_BYTES} bytes")


class _Storage(str):
    """The numpy type of a class of torch, such as torch.HalfStorage."""


class _Unpickler(pickle.Unpickler):
    """Knows tensors and the dictionary around them, and nothing that could run code."""

    def __init__(self, stream: Any, file: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(stream)
        self._file = file
        self._prefix = prefix

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _make_tensor
        if module == "torch" and name in _STORAGES:
            return _Storage(name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not allowed")

    def persistent_load(self, pid: Any) -> npt.NDArray[Any]:
        kind, storage, key, _device, count = pid
        if kind != "storage" or not isinstance(storage, _Storage):
            raise pickle.UnpicklingError(f"unknown reference {kind!r}")
        member = f"{self._prefix}data/{key}"
        _require_small(self._file, member)
        values = np.frombuffer(self._file.read(member), _STORAGES[storage])
        if len(values) != count:
            raise pickle.UnpicklingError(f"{member} has {len(values)} values instead of {count}")
        if storage == "BFloat16Storage":  # the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values


def _make_tensor(values: npt.NDArray[Any], offset: int, shape: Any, stride: Any, *_: Any) -> npt.NDArray[Any]:
    """A contiguous tensor: other strides do not come from a linear layer."""
    count = int(np.prod(shape))
    contiguous = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    if tuple(stride) != contiguous or offset < 0 or offset + count > len(values):
        raise pickle.UnpicklingError(f"tensor of shape {tuple(shape)} with strides {tuple(stride)} at {offset}")
    return values[offset : offset + count].reshape(shape)
