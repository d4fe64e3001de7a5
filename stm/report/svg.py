"""Small charts as inline SVG, without a library. The page colours them, for light and dark.

Lengths are CSS pixels. Classes in the style sheet (``templates/report.css``): axis, grid, faint, line, band, dot, bar.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stm.markup import Html, join, tag
from stm.plural import counted

LEFT, RIGHT, TOP, BOTTOM = 46.0, 22.0, 12.0, 34.0


@dataclass(frozen=True)
class Line:
    """One curve: points in data units."""

    points: Sequence[tuple[float, float]]
    name: str
    style: str = "line"
    """`line` (accent colour), `second` (ink, dashed) or `faint`."""
    dots: bool = False


@dataclass(frozen=True)
class Axes:
    """A plot area with ticks, which maps data to pixels."""

    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_label: str = ""
    y_format: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    x_format: Callable[[float], str] = field(default=lambda value: f"{value:g}")

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / ((high - low) or 1) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return (
            self.height
            - BOTTOM
            - (value - low) / ((high - low) or 1) * (self.height - TOP - BOTTOM)
        )

    def frame(self) -> Html:
        """Draw grid lines, ticks and the label of the x axis."""
        parts: list[Html] = []
        for value in ticks(*self.y_range, 4):
            y = self.y(value)
            parts.append(tag("line", class_="grid", x1=LEFT, x2=self.width - RIGHT, y1=y, y2=y))
            text = self.y_format(value)
            parts.append(tag("text", text, class_="axis end", x=LEFT - 8, y=y + 4))
        for value in ticks(*self.x_range, 5):
            text = self.x_format(value)
            parts.append(
                tag("text", text, class_="axis mid", x=self.x(value), y=self.height - BOTTOM + 16)
            )
        label = tag(
            "text", self.x_label, class_="axis end", x=self.width - RIGHT, y=self.height - 3
        )
        return join(*parts, label)

    def curve(self, line: Line) -> Html:
        """Draw a line through its points, clipped to the plot area."""
        places = [
            (self.x(x), self.y(min(max(y, self.y_range[0]), self.y_range[1])))
            for x, y in line.points
        ]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        drawn = [tag("path", class_=line.style, d=path)] if len(places) > 1 else []
        if line.dots or len(places) == 1:
            drawn += [tag("circle", class_="dot", cx=x, cy=y, r=3.0) for x, y in places]
        return join(*drawn)


def drawing(width: float, height: float, alt: str, *children: Html, style: str = "") -> Html:
    """Return the ``svg`` element; ``alt`` describes in words what it shows."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=alt,
        class_=f"chart {style}".strip(),
        style=f"max-width:{width:g}px",
    )


def line_chart(
    lines: Sequence[Line],
    alt: str,
    *,
    x_label: str,
    y_range: tuple[float, float] | None = None,
    y_format: Callable[[float], str] | None = None,
    marks: Sequence[float] = (),
    width: float = 420,
    height: float = 230,
) -> Html:
    """Draw curves over a common x, with vertical dashes at ``marks``."""
    points = [point for line in lines for point in line.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_range = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    top = max(ys) * 1.05 or 1.0
    axes = Axes(
        width,
        height,
        x_range,
        y_range or (0.0, top),
        x_label,
        y_format or (lambda v: f"{v:g}"),
        _short,
    )
    dashes = [
        tag("line", class_="mark", x1=axes.x(m), x2=axes.x(m), y1=TOP, y2=height - BOTTOM)
        for m in marks
    ]
    return drawing(width, height, alt, axes.frame(), *dashes, *(axes.curve(line) for line in lines))


def histogram(edges: Sequence[float], counts: Sequence[int], alt: str, *, x_label: str) -> Html:
    """Draw bars between edges; hovering shows a bar's range and count."""
    width, height = 420.0, 190.0
    axes = Axes(
        width, height, (edges[0], edges[-1]), (0, max(counts) * 1.05), x_label, _short, _short
    )
    bars = []
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right = axes.x(low), axes.x(high)
        title = tag(
            "title", f"{_short(low)} to {_short(high)} {x_label}: {counted(count, 'video')}"
        )
        bars.append(
            tag(
                "rect", title, class_="bar", x=left + 0.5, width=max(right - left - 1, 0.5),
                y=axes.y(count), height=axes.y(0) - axes.y(count),
            )
        )  # fmt: skip
    return drawing(width, height, alt, axes.frame(), *bars)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Return approximately ``about`` round numbers in [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _short(value: float) -> str:
    """Shorten a number: 12000 is "12k"."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:.4g}"
