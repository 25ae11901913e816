"""Lines of the backlog over the last minutes, as paths of an SVG that the template draws. It needs no script."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from operations.web.console.live import KEPT_SECONDS, Sample, waiting

WIDTH, HEIGHT = 900, 100  # seconds, and per cent: the style sheet stretches both
_LOWEST_TOP = 10  # the scale of an empty backlog
_STYLES = 6  # colours in the style sheet


@dataclass(frozen=True)
class Line:
    """`path` is the attribute `d`; `style` is a number from 0."""

    name: str
    style: int
    path: str
    last: int


@dataclass(frozen=True)
class Chart:
    """`ticks` are the labels of the vertical axis from below, `marks` those of the horizontal one in minutes ago.

    `points` is JSON for the script: a list of [seconds ago, x, {stage: value}].
    """

    lines: Sequence[Line]
    ticks: Sequence[str]
    marks: Sequence[int]
    points: str
    width: int = WIDTH
    height: int = HEIGHT


def draw(samples: Sequence[Sample], labels: Mapping[str, str] = MappingProxyType({})) -> Chart:
    """A gap is where the database did not answer. `labels` are the reader's words for some stages."""
    now = samples[-1].at if samples else 0.0
    values = [(one.at, {labels.get(name, name): n for name, n in waiting(one).items()}) for one in samples]
    names = list(dict.fromkeys(name for _, found in values for name in found))
    top = _round_up(max((count for _, found in values for count in found.values()), default=0))
    lines = [
        Line(name, number % _STYLES, _path(values, name, now, top), values[-1][1].get(name, 0))
        for number, name in enumerate(names)
    ]
    ticks = [f"{top * part // 2:,}" for part in range(3)]
    points = [[round(now - at), round(_x(at, now), 1), found] for at, found in values]
    return Chart(lines, ticks, (15, 10, 5, 0), json.dumps(points))


def _path(values: Sequence[tuple[float, dict[str, int]]], name: str, now: float, top: int) -> str:
    drawn, pen_is_down = [], False
    for at, found in values:
        if name not in found:
            pen_is_down = False
            continue
        drawn.append(f"{'L' if pen_is_down else 'M'}{_x(at, now):.1f} {_y(found[name], top):.1f}")
        pen_is_down = True
    return "".join(drawn)


def _x(at: float, now: float) -> float:
    share = min(1.0, max(0.0, 1 - (now - at) / KEPT_SECONDS))
    return share * WIDTH


def _y(value: float, top: int) -> float:
    return (1 - value / top) * HEIGHT


def _round_up(value: int) -> int:
    """The next of 10, 20, 30, 40, 60, 80, 100, 200 …"""
    size = _LOWEST_TOP
    while True:
        for factor in (1, 2, 3, 4, 6, 8):
            if size * factor >= value:
                return size * factor
        size *= 10
