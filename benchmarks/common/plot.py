"""Line charts as SVG, without a dependency, in files that can be compared by diff."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 640, 360
MARKED = 64  # points of a series, at most, that are marked with a dot
LEFT, RIGHT, TOP, BOTTOM = 64, 150, 36, 48
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
Points = Sequence[tuple[float, float]]


class Axis:
    """Maps values to pixels; ticks at powers of ten, or at round steps."""

    def __init__(self, values: Sequence[float], begin: float, end: float, log: bool):
        self.log, self.begin, self.end = log, begin, end
        low, high = min(values), max(values)
        self.low = self._scaled(low) if log else min(0.0, low)
        self.high = self._scaled(high) if log else high * 1.08
        if self.high == self.low:
            self.high += 1

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def at(self, value: float) -> float:
        return self.begin + (self._scaled(value) - self.low) / (self.high - self.low) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        if self.log:
            powers = [10.0**n for n in range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)]
            return powers if len(powers) > 1 else [10**self.low, 10**self.high]
        step = _step((self.high - self.low) / 5)
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def lines(
    title: str,
    across: str,
    up: str,
    series: Mapping[str, Points],
    log_x: bool = False,
    log_y: bool = False,
    pairs: bool = False,
) -> str:
    """Return one chart. ``pairs``: series are called "kind: name", and those of one name have one colour; all but the first
    kind are dashed."""
    x = Axis([px for points in series.values() for px, _ in points], LEFT, WIDTH - RIGHT, log_x)
    y = Axis([py for points in series.values() for _, py in points], HEIGHT - BOTTOM, TOP, log_y)
    parts = [_frame(title, across, up), *_grid(x, y)]
    kinds = list(dict.fromkeys(name.partition(": ")[0] for name in series)) if pairs else []
    names = list(dict.fromkeys(name.partition(": ")[2] for name in series)) if pairs else []
    for number, (name, points) in enumerate(series.items()):
        kind, _, rest = name.partition(": ")
        colour = COLOURS[(names.index(rest) if pairs else number) % len(COLOURS)]
        dash = f' stroke-dasharray="5 {2 + kinds.index(kind)}"' if pairs and kinds.index(kind) else ""
        parts += _series(name, points, x, y, number, colour, dash)
    return "\n".join([*parts, "</svg>", ""])


def _frame(title: str, across: str, up: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>\n'
        f'<text x="{LEFT}" y="20" font-size="13" font-weight="bold">{escape(title)}</text>\n'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(across)}</text>\n'
        f'<text transform="translate(14 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>'
    )


def _grid(x: Axis, y: Axis) -> list[str]:
    parts = []
    for tick in y.ticks():
        at = y.at(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for tick in x.ticks():
        parts.append(f'<text x="{x.at(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_label(tick)}</text>')
    return [*parts, f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" stroke="#333"/>']


def _series(name: str, points: Points, x: Axis, y: Axis, number: int, colour: str, dash: str) -> list[str]:
    path = " ".join(f"{x.at(px):.1f},{y.at(py):.1f}" for px, py in points)
    at = TOP + 14 + 16 * number
    marked = points if len(points) <= MARKED else []
    dots = [f'<circle cx="{x.at(px):.1f}" cy="{y.at(py):.1f}" r="2.5" fill="{colour}"/>' for px, py in marked]
    return [
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"{dash}/>',
        *dots,
        f'<line x1="{WIDTH - RIGHT + 10}" x2="{WIDTH - RIGHT + 28}" y1="{at - 4}" y2="{at - 4}"'
        f' stroke="{colour}" stroke-width="2"{dash}/>',
        f'<text x="{WIDTH - RIGHT + 33}" y="{at}">{escape(name)}</text>',
    ]


def _step(rough: float) -> float:
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough)


def _label(value: float) -> str:
    if value >= 1e9:
        return f"{value / 1e9:g}G"
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:,.0f}" if value >= 1e3 else f"{value:.3g}"
