"""BGE-M3 on onnxruntime: vectors of 1,024 values and sparse weights, in one pass. Needs the extra `bge-m3`.

A vector is the normalised hidden state of the first token. The sparse weight of a token is the largest one of its
positions; special tokens have none. Both are what the model's authors define (arXiv 2402.03216).
"""

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from producer.processing.embed.batches import join, split
from producer.processing.embed.port import Embedded, EmbedError, Vectors, Weights, check_text
from producer.processing.embed.sparse_head import SparseHead, load_sparse_head
from schema import limits

MODEL = "bge-m3"
DIMENSION = 1_024
MOST_TOKENS = 8_192  # positions that the model has learned
_SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "<unk>")
_GROUP_TEXTS = 256  # are tokenised and sorted by length together
_GROUP_CHARS = 256 * 1024
_BATCH_TEXTS = 64
_BATCH_TOKENS = 8_192  # with padding; 4 KiB per token of hidden states
_BATCH_PAIRS = 4 * 1024 * 1024  # of tokens; 16 heads × 4 bytes per pair: 256 MiB of attention scores
_WEIGHT_MIN = np.finfo(np.float32).tiny

_log = logging.getLogger(__name__)


class BgeM3Embedder:
    """`SparseEmbedder` with the model's files in a folder. Questions and passages have the same form. Thread-safe.

    The folder holds `model.onnx` with the file of its weights, `tokenizer.json` and `sparse_linear.pt` (or `.npz`); the
    first two may be in a folder `onnx` below. The first `embed` reads them. `folder` may be a function, which that
    `embed` calls. A text is cut after `most_tokens`; a warning in the log counts such texts. `threads`: of one pass;
    None for one per core.
    """

    model = MODEL
    dimension = DIMENSION
    gives_weights = True

    def __init__(
        self, folder: Path | Callable[[], Path], *, threads: int | None = None, most_tokens: int = MOST_TOKENS
    ) -> None:
        if not 3 <= most_tokens <= MOST_TOKENS:
            raise ValueError(f"most_tokens must be 3 to {MOST_TOKENS}, is {most_tokens}")
        self._folder = folder
        self._threads = threads
        self._most_tokens = most_tokens
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder.embed`. A blank text and a text that is not valid Unicode have no vector."""
        return self.embed_both(texts).vectors

    def embed_both(self, texts: Sequence[str]) -> Embedded:
        """See `SparseEmbedder.embed_both`: the heaviest `limits.SPARSE_ENTRIES` weights of a text."""
        for index, text in enumerate(texts):
            check_text(text, index)
        loaded = self.load()
        done = []
        for start, group in split(texts, most_texts=_GROUP_TEXTS, most_chars=_GROUP_CHARS):
            try:
                done.append(self._embed_group(loaded, group))
            except EmbedError as error:
                raise error.moved(start) from error
        return join(done, self.dimension) if done else Embedded(np.zeros((0, DIMENSION), np.float32), [])

    def load(self) -> "LoadedModel":
        """Read the files unless that is done. Raises EmbedError."""
        with self._lock:
            return self._loaded

    @cached_property
    def _loaded(self) -> "LoadedModel":
        folder = self._folder if isinstance(self._folder, Path) else self._folder()
        return LoadedModel.read(folder, self._threads, self._most_tokens)

    def _embed_group(self, loaded: "LoadedModel", texts: Sequence[str]) -> Embedded:
        encodings = loaded.tokenizer.encode_batch(list(texts))
        if truncated := sum(bool(encoding.overflowing) for encoding in encodings):
            _log.warning("embedding_truncated model=%s texts=%d tokens=%d", self.model, truncated, self._most_tokens)
        ids = [np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings]
        vectors = np.empty((len(texts), DIMENSION), dtype=np.float32)
        weights: list[Weights] = [{} for _ in texts]
        for batch in _batches([len(tokens) for tokens in ids]):
            hidden = loaded.run([ids[index] for index in batch])
            vectors[batch] = hidden[:, 0]
            for row, index in enumerate(batch):
                weights[index] = loaded.weigh(ids[index], hidden[row, : len(ids[index])])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            index = int(np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))[0])
            raise EmbedError(f"{self.model} gave a vector that is zero or not finite", index=index)
        return Embedded(vectors / lengths, weights)


@dataclass(frozen=True)
class LoadedModel:
    tokenizer: Any
    session: Any
    inputs: frozenset[str]
    output: str
    head: SparseHead
    pad: int
    special: npt.NDArray[np.int64]

    @classmethod
    def read(cls, folder: Path, threads: int | None, most_tokens: int) -> "LoadedModel":
        """Raises EmbedError, which names the file."""
        model, vocabulary = _find(folder, "model.onnx"), _find(folder, "tokenizer.json")
        head = load_sparse_head(folder, DIMENSION)
        try:
            onnxruntime = importlib.import_module("onnxruntime")
            tokenizers = importlib.import_module("tokenizers")
        except ImportError as error:
            raise EmbedError(f"cannot load {MODEL}: {error}; install rag-outbox[bge-m3]") from error
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(vocabulary))
        except Exception as error:  # the library raises no other class
            raise EmbedError(f"cannot read {vocabulary}: {error}") from error
        tokenizer.no_padding()
        tokenizer.enable_truncation(most_tokens)
        special = {token: tokenizer.token_to_id(token) for token in _SPECIAL_TOKENS}
        if missing := [token for token, number in special.items() if number is None]:
            raise EmbedError(f"{vocabulary}: has no token {missing[0]!r}, so it is not the tokenizer of {MODEL}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False  # it would keep the memory of the longest text
        options.enable_mem_pattern = False  # lengths differ from batch to batch
        try:
            session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise EmbedError(f"cannot read {model}: {error}") from error
        inputs = frozenset(one.name for one in session.get_inputs())
        numbers = np.array(sorted(special.values()), dtype=np.int64)
        return cls(tokenizer, session, inputs, _output(session, model), head, special["<pad>"], numbers)

    def run(self, texts: Sequence[npt.NDArray[np.int64]]) -> Vectors:
        """The hidden states of padded texts, of shape (texts, longest, dimension). Raises EmbedError."""
        shape = (len(texts), max(map(len, texts)))
        ids, mask = np.full(shape, self.pad, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        for row, tokens in enumerate(texts):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros(shape, dtype=np.int64)}
        try:
            [hidden] = self.session.run([self.output], {name: feeds[name] for name in self.inputs if name in feeds})
        except Exception as error:  # its errors have no common class
            raise EmbedError(f"{MODEL} failed on texts of {shape[1]} tokens: {error}") from error
        if hidden.shape != (*shape, DIMENSION):
            raise EmbedError(f"{MODEL}: the output {self.output!r} has the shape {hidden.shape}")
        return np.asarray(hidden, dtype=np.float32)

    def weigh(self, ids: npt.NDArray[np.int64], hidden: Vectors) -> dict[int, float]:
        """Token id → weight, of one text without padding."""
        scores = hidden @ self.head.weight + self.head.bias
        counted = (scores >= _WEIGHT_MIN) & np.isfinite(scores) & ~np.isin(ids, self.special)
        tokens, positions = np.unique(ids[counted], return_inverse=True)
        largest = np.zeros(len(tokens), dtype=np.float32)
        np.maximum.at(largest, positions, scores[counted])
        heaviest = np.argsort(-largest, kind="stable")[: limits.SPARSE_ENTRIES]
        return dict(zip(tokens[heaviest].tolist(), largest[heaviest].tolist(), strict=True))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / "onnx" / name):
        if path.is_file():
            return path
    raise EmbedError(f"there is no {name} in {folder}, nor in its folder onnx")


def _output(session: Any, model: Path) -> str:
    """The output with a state per token: exporters call it `last_hidden_state` or `token_embeddings`."""
    outputs = {one.name: one.shape for one in session.get_outputs()}
    for name in ("last_hidden_state", "token_embeddings"):
        if name in outputs and len(outputs[name]) == 3:
            return name
    raise EmbedError(f"{model}: has no output last_hidden_state or token_embeddings, but {', '.join(outputs)}")


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indexes of texts of similar length, longest first, bounded by what a padded batch takes in memory."""
    batch: list[int] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        count = len(batch) + 1
        is_over = count > _BATCH_TEXTS or count * longest > _BATCH_TOKENS or count * longest**2 > _BATCH_PAIRS
        if batch and is_over:
            yield batch
            batch = []
        if not batch:
            longest = lengths[index]
        batch.append(index)
    if batch:
        yield batch
