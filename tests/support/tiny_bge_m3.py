"""A folder as BGE-M3 has it, with a tiny model: 24 words, 1,024 dimensions, and a numpy computation of its answers.

The hidden state of a token is its vector plus the mean of all vectors of its text, so padding that is not masked would
change it.
"""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = ("<s>", "<pad>", "</s>", "<unk>", *(f"w{number}" for number in range(20)))
DIMENSION = 1_024
SPECIAL = {0, 1, 2, 3}

Array = npt.NDArray[np.float32]


class TinyModel:
    """The numbers of the model, from a seed, and what it must answer."""

    def __init__(self, seed: int = 7) -> None:
        source = np.random.default_rng(seed)
        self.table: Array = source.normal(size=(len(WORDS), DIMENSION)).astype(np.float32)
        self.weight: Array = (source.normal(size=(1, DIMENSION)) / 16).astype(np.float16).astype(np.float32)
        self.bias: Array = np.array([0.25], dtype=np.float32)

    def tokens(self, text: str, most: int = 8_192) -> list[int]:
        words = [WORDS.index(word) if word in WORDS else 3 for word in text.split()][: most - 2]
        return [0, *words, 2]

    def hidden(self, text: str, most: int = 8_192) -> Array:
        states = self.table[self.tokens(text, most)]
        both: Array = states + states.mean(axis=0)
        return both

    def vector(self, text: str, most: int = 8_192) -> Array:
        first = self.hidden(text, most)[0]
        unit: Array = first / np.linalg.norm(first)
        return unit

    def weights(self, text: str) -> dict[int, float]:
        largest: dict[int, float] = {}
        for token, state in zip(self.tokens(text), self.hidden(text), strict=True):
            weight = float(state @ self.weight[0]) + float(self.bias[0])
            if token not in SPECIAL and weight > 0:
                largest[token] = max(weight, largest.get(token, 0.0))
        return largest

    def write(self, folder: Path, *, nested: bool = False, output: str = "last_hidden_state") -> Path:
        """Write model, tokenizer and `sparse_linear.pt` as the real folder has them. Returns `folder`."""
        inner = folder / "onnx" if nested else folder
        inner.mkdir(parents=True, exist_ok=True)
        self._write_model(inner / "model.onnx", output)
        _write_tokenizer(inner / "tokenizer.json")
        write_torch(folder / "sparse_linear.pt", self.weight, self.bias)
        return folder

    def _write_model(self, path: Path, output: str) -> None:
        """With its weights in a second file, as a model of more than 2 GB must have them."""
        shape: list[str | int] = ["batch", "tokens"]
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["states"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
            helper.make_node("Mul", ["states", "wide"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "middle"], ["sum"], keepdims=1),
            helper.make_node("ReduceSum", ["wide", "middle"], ["count"], keepdims=1),
            helper.make_node("Div", ["sum", "count"], ["mean"]),
            helper.make_node("Add", ["states", "mean"], [output]),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [*shape, DIMENSION])],
            [
                numpy_helper.from_array(self.table, "table"),
                numpy_helper.from_array(np.array([2], dtype=np.int64), "last"),
                numpy_helper.from_array(np.array([1], dtype=np.int64), "middle"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save_model(model, str(path), save_as_external_data=True, location="model.onnx_data")


def _write_tokenizer(path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(WORDS[:4]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(path))


def write_torch(path: Path, weight: Array, bias: Array, *, storage: str = "HalfStorage", evil: bytes = b"") -> None:
    """A file as `torch.save` writes an OrderedDict of two tensors; `evil` are opcodes that run before it."""
    kinds = {"HalfStorage": np.float16, "FloatStorage": np.float32, "DoubleStorage": np.float64}
    tensors = {"weight": weight.astype(kinds[storage]), "bias": bias.astype(kinds[storage])}
    made = bytearray(pickle.PROTO + b"\x02" + evil)
    made += b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE + pickle.MARK
    for key, (name, values) in enumerate(tensors.items()):
        made += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + pickle.MARK
        made += pickle.MARK + _text("storage") + f"ctorch\n{storage}\n".encode() + _text(str(key)) + _text("cpu")
        made += _number(values.size) + pickle.TUPLE + pickle.BINPERSID + _number(0)
        made += pickle.MARK + b"".join(map(_number, values.shape)) + pickle.TUPLE
        strides = [stride // values.itemsize for stride in values.strides]
        made += pickle.MARK + b"".join(map(_number, strides)) + pickle.TUPLE
        made += pickle.NEWFALSE + b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
        made += pickle.TUPLE + pickle.REDUCE
    made += pickle.SETITEMS + pickle.STOP
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("sparse_linear/data.pkl", bytes(made))
        file.writestr("sparse_linear/byteorder", "little")
        for key, values in enumerate(tensors.values()):
            file.writestr(f"sparse_linear/data/{key}", values.tobytes())
        file.writestr("sparse_linear/version", "3\n")


def _text(value: str) -> bytes:
    raw = value.encode()
    return pickle.BINUNICODE + len(raw).to_bytes(4, "little") + raw


def _number(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)
