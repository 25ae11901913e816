"""Reads the text of images with RapidOCR and the models inside its package: nothing is downloaded."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

_MODELS = {"Det": "*_det_*.onnx", "Rec": "*_rec_*.onnx", "Cls": "*_cls_*.onnx"}
_THREADS = 2  # more take address space, and the limit of the process counts it
_MIN_OVERLAP = 0.5  # of the lower box's height: then two boxes are on one line


def is_installed() -> bool:
    """Whether the libraries of the extra `ocr` are there."""
    return find_spec("rapidocr") is not None and find_spec("onnxruntime") is not None


def read(picture: Pillow.Image) -> str:
    """The text of a decoded RGB image, line by line from the top; empty if there is none."""
    found = _engine()(np.asarray(picture.convert("RGB"))[:, :, ::-1])  # OpenCV's order of colours
    if found.boxes is None or found.txts is None:
        return ""
    return "\n".join(_lines([(*_extent(box), text) for box, text in zip(found.boxes, found.txts, strict=True)]))


@cache
def _engine() -> Any:
    from rapidocr import RapidOCR  # a second, and 600 MB while it reads

    folder = Path(str(find_spec("rapidocr").origin)).parent / "models"  # type: ignore[union-attr]
    params: dict[str, Any] = {f"{part}.model_path": str(_model(folder, name)) for part, name in _MODELS.items()}
    params |= {
        "Global.log_level": "critical",
        "EngineConfig.onnxruntime.intra_op_num_threads": _THREADS,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return RapidOCR(params=params)


def _model(folder: Path, pattern: str) -> Path:
    """A model of the package: with a path that exists, the library fetches nothing."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise FileNotFoundError(f"rapidocr is installed without its model {pattern}")
    return found[0]


def _extent(box: Any) -> tuple[float, float, float]:
    """Left, top and bottom of a box of four corners."""
    return float(box[:, 0].min()), float(box[:, 1].min()), float(box[:, 1].max())


def _lines(boxes: list[tuple[float, float, float, str]]) -> list[str]:
    """Boxes next to each other become one line, from left to right."""
    lines: list[list[tuple[float, float, float, str]]] = []
    for box in sorted(boxes, key=lambda each: (each[1] + each[2]) / 2):
        if lines and _is_on_line(box, lines[-1][0]):
            lines[-1].append(box)
        else:
            lines.append([box])
    return [" ".join(text for *_, text in sorted(line)) for line in lines]


def _is_on_line(box: tuple[float, float, float, str], first: tuple[float, float, float, str]) -> bool:
    overlap = min(box[2], first[2]) - max(box[1], first[1])
    return overlap > _MIN_OVERLAP * min(box[2] - box[1], first[2] - first[1])
