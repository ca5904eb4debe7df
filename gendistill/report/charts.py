"""The report's charts, as SVG in the page: colours and sizes come from its style sheet, figures from its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH = 360  # units, about a pixel each: what a phone shows, and half of a wide window
LEFT, RIGHT, BOTTOM, TOP = 40, 8, 40, 12
ABOVE = 30  # a line plot, where the name of its upward axis stands
LINE_HEIGHT = 170
ROW = 44  # of a dot plot
MOST_DOTS = 30  # of a line; more would hide it
VALUE = 78  # kept free at the right of a dot plot for the figures

Point = tuple[float, float]


@dataclass(frozen=True)
class DotRow:
    """A line of a dot plot: every value a tick, their mean a dot, ``spread`` to both sides a bar."""

    name: str
    values: Sequence[float]
    mean: float
    spread: float | None
    label: str
    ours: bool


@dataclass(frozen=True)
class Line:
    """:param style: a class of the style sheet: "ours", "mark" (small points alone) or "measured" (squares alone)."""

    name: str
    points: Sequence[Point]
    style: str = "ours"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from below ``low`` to above ``high``."""
    if not high > low:
        low, high = low - (abs(low) * 0.05 or 0.5), high + (abs(high) * 0.05 or 0.5)
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _figure(value: float) -> str:
    return f"{value:,.6g}"


def _text(x: float, y: float, text: str, style: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, style, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, style)


def _dot(x: float, y: float, radius: float, style: str, told: str) -> Markup:
    return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{:g}" class="{}"><title>{}</title></circle>').format(
        x, y, radius, style, told
    )


def _square(x: float, y: float, told: str) -> Markup:
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="9" height="9" class="square"><title>{}</title></rect>').format(
        x - 4.5, y - 4.5, told
    )


def _svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {:.0f}">{}</svg>').format(
        label, WIDTH, height, Markup("").join(parts)
    )


def dot_plot(rows: Sequence[DotRow], axis: str, label: str) -> Markup:
    """One line a row, the name above it, its figures at the right."""
    low = min(min([*row.values, row.mean - (row.spread or 0)]) for row in rows)
    high = max(max([*row.values, row.mean + (row.spread or 0)]) for row in rows)
    scale = ticks(low, high, 4)
    right = WIDTH - VALUE

    def x(value: float) -> float:
        return 8 + (value - scale[0]) / (scale[-1] - scale[0]) * (right - 8)

    bottom = TOP + ROW * len(rows)
    parts = [_line(x(value), TOP, x(value), bottom, "grid") for value in scale]
    for number, row in enumerate(rows):
        y, style = TOP + ROW * number + 26, "ours" if row.ours else "other"
        parts.append(_text(8, y - 11, row.name, f"name {style}", "start"))
        if row.spread is not None:
            parts.append(_line(x(row.mean - row.spread), y, x(row.mean + row.spread), y, f"bar {style}"))
        parts += [_line(x(value), y - 4, x(value), y + 4, f"tick {style}") for value in row.values]
        parts.append(_dot(x(row.mean), y, 5, f"dot {style}", f"{row.name}: {row.label}"))
        parts.append(_text(WIDTH - 2, y + 4, row.label, f"value {style}", "end"))
    parts += [_text(x(value), bottom + 16, _figure(value), "axis") for value in scale]
    parts.append(_text((8 + right) / 2, bottom + 34, axis, "axis title"))
    return _svg(bottom + BOTTOM, label, parts)


def line_plot(lines: Sequence[Line], x_axis: str, y_axis: str, label: str, *, places: Sequence[float] = ()) -> Markup:
    """Lines with a dot at every figure.

    :param places: of ticks along x; chosen if none are given. Where they span a factor of 30, x is logarithmic.
    """
    every = [point for line in lines for point in line.points]
    along = sorted({x for x, _ in every})
    logarithmic = along[0] > 0 and along[-1] / along[0] >= 30
    scale = ticks(min(y for _, y in every), max(y for _, y in every))
    if not places:
        whole = [value for value in ticks(along[0], along[-1]) if value.is_integer()]
        places = _round_places(along[0], along[-1]) if logarithmic else whole
    place: Callable[[float], float] = math.log if logarithmic else float
    first, last = place(min(along[0], *places)), place(max(along[-1], *places))
    height = ABOVE + LINE_HEIGHT

    def x(value: float) -> float:
        share = (place(value) - first) / (last - first) if last > first else 0.5
        return LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20)

    def y(value: float) -> float:
        return height - (value - scale[0]) / (scale[-1] - scale[0]) * LINE_HEIGHT

    parts = [_text(0, 12, y_axis, "axis title", "start")]
    parts += [_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid") for value in scale]
    parts += [_text(LEFT - 6, y(value) + 4, _figure(value), "axis", "end") for value in scale]
    parts += [_text(x(value), height + 16, _figure(value), "axis") for value in places]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height + 34, x_axis, "axis title"))
    for line in lines:
        if line.style == "ours":
            path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
            parts.append(Markup('<polyline points="{}" class="path {}"/>').format(path, line.style))
        radius = 3 if line.style == "mark" else 4
        for a, b in line.points if len(line.points) <= MOST_DOTS else ():
            told = f"{line.name}: {_figure(b)} at {_figure(a)}"
            square = line.style == "measured"
            parts.append(_square(x(a), y(b), told) if square else _dot(x(a), y(b), radius, f"dot {line.style}", told))
    return _svg(height + BOTTOM, f"{label} Up: {y_axis}. Right: {x_axis}.", parts)


def _round_places(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, 20, ... between the two."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [v for v in (factor * 10.0**power for power in powers for factor in (1, 2, 5)) if low <= v <= high]


def share_bar(share: float, label: str, start: float = 0.0) -> Markup:
    """A bar as long as the share says, from the share ``start`` on."""
    return Markup(
        '<svg class="share" role="img" aria-label="{}" viewBox="0 0 100 8" preserveAspectRatio="none">'
        '<rect class="all" width="100" height="8"/><rect class="part" x="{:.2f}" width="{:.2f}" height="8"/></svg>'
    ).format(label, 100 * start, 100 * min(max(share, 0.0), 1.0))
