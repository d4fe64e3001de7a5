"""Charts of the report: the confusion matrix, accuracies with intervals, reliability, orders of frames."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from stm.markup import Html, data_uri, join, tag
from stm.plural import counted
from stm.report.calibration import Calibration
from stm.report.intervals import Interval
from stm.report.svg import BOTTOM, TOP, Axes, drawing
from stm.report.time_use import NAMES, Share, TimeUse

MOST_DRAWN = 40
"""Largest number of classes for which cells and class names are drawn; a larger matrix becomes a picture."""

_MOST_COUNTED = 24
_CELLS = ((8, 46.0), (16, 34.0), (24, 28.0), (MOST_DRAWN, 22.0))
_LETTER, _LONGEST = 6.6, 28


def confusion_grid(shares_KK: np.ndarray, counts_KK: np.ndarray, classes: list[str]) -> Html:
    """Draw the matrix of up to `MOST_DRAWN` classes, which are sorted: right in grey, wrong in the accent colour."""
    size = len(classes)
    cell = next(px for most, px in _CELLS if size <= most)
    shown = [_cut(name, _LONGEST) for name in classes]
    margin = 16 + _LETTER * max(map(len, shown))
    parts = []
    for row in range(size):
        y = margin + row * cell
        parts.append(_label(shown[row], classes[row], margin - 8, y + cell / 2 + 4, "end"))
        for column in range(size):
            x = margin + column * cell
            parts.append(_cell(x, y, cell, row, column, shares_KK, counts_KK, classes))
    for column in range(size):
        x = margin + (column + 0.5) * cell
        label = _label(shown[column], classes[column], 0, 4, "start")
        parts.append(tag("g", label, transform=f"translate({x:.1f} {margin - 8:.1f}) rotate(-90)"))
    edge = margin + size * cell + 8
    alt = f"Confusion matrix of {counted(size, 'class')}; the table beside it lists the largest confusions"
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {edge:g} {edge:g}",
        width=edge,
        height=edge,
        role="img",
        aria_label=alt,
        class_="matrix",
    )


def _cell(
    x: float, y: float, size: float, row: int, column: int,
    shares_KK: np.ndarray, counts_KK: np.ndarray, classes: list[str],
) -> Html:  # fmt: skip
    share, count = float(shares_KK[row, column]), int(counts_KK[row, column])
    if not count:
        return tag("rect", class_="none", x=x + 1, y=y + 1, width=size - 2, height=size - 2)
    kind = "right" if row == column else "wrong"
    said = tag(
        "title", f"{classes[row]} taken for {classes[column]}: {count} ({share:.0%})"
        if row != column else f"{classes[row]} recognised: {count} ({share:.0%})",
    )  # fmt: skip
    opacity = 0.12 + 0.88 * share
    drawn = tag(
        "rect", said, class_=kind, x=x + 1, y=y + 1, width=size - 2, height=size - 2, rx=2,
        fill_opacity=opacity,
    )  # fmt: skip
    if len(classes) > _MOST_COUNTED:
        return drawn
    style = "count on" if kind == "wrong" and opacity > 0.72 else "count"
    number = tag("text", count, class_=style, x=x + size / 2, y=y + size / 2 + 4)
    return join(drawn, number)


def _label(shown: str, full: str, x: float, y: float, anchor: str) -> Html:
    title = tag("title", full) if shown != full else None
    return tag("text", title, shown, class_=f"axis {anchor}", x=x, y=y)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def confusion_picture(shares_KK: np.ndarray, alt: str) -> Html:
    """Return the matrix of many classes as an image with a transparent background, for light and dark pages.

    The opacity grows with the root of the share, so that small shares are visible.
    """
    from PIL import Image

    size = len(shares_KK)
    pixels = np.zeros((size, size, 4), np.uint8)
    pixels[..., :3] = (0xD9, 0x5F, 0x2B)
    np.einsum("iic->ic", pixels)[:, :3] = (0x86, 0x8E, 0x96)
    pixels[..., 3] = np.where(shares_KK > 0, np.round(70 + 185 * np.sqrt(shares_KK)), 0)
    scale = max(1, -(-1200 // size))  # browsers shrink images well, but blur enlarged ones
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(buffer, "PNG", optimize=True)
    return tag(
        "img", class_="heat", id="heat", alt=alt, src=data_uri(buffer.getvalue(), "image/png")
    )


def interval_bar(value: float, interval: Interval, mean: float | None = None) -> Html:
    """Draw a share from 0 to 1 as a dot on its interval, with a faint tick at ``mean``."""
    width = 160.0
    parts = [tag("line", class_="grid", x1=0, x2=width, y1=8, y2=8)]
    if mean is not None:
        parts.append(tag("line", class_="mark", x1=width * mean, x2=width * mean, y1=0, y2=16))
    left, right = width * interval.low, width * interval.high
    parts.append(
        tag("rect", class_="band", x=left, y=4, width=max(right - left, 1.0), height=8, rx=2)
    )
    parts.append(
        tag("circle", class_="dot", cx=min(max(width * value, 3.5), width - 3.5), cy=8, r=3.5)
    )
    return tag("svg", *parts, viewBox="0 0 160 16", class_="interval", aria_hidden="true")


def profile(accuracies: list[float], intervals: list[Interval], alt: str) -> Html:
    """Draw the accuracies of many classes, which are sorted, as a line with the band of their intervals."""
    axes = Axes(
        860, 220, (1, max(len(accuracies), 2)), (0, 1), "classes, from worst to best", _percent
    )
    above = [(axes.x(i + 1), axes.y(interval.high)) for i, interval in enumerate(intervals)]
    below = [(axes.x(i + 1), axes.y(interval.low)) for i, interval in enumerate(intervals)]
    outline = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in [*above, *reversed(below)]) + "Z"
    line = "M" + "L".join(
        f"{axes.x(i + 1):.1f} {axes.y(accuracy):.1f}" for i, accuracy in enumerate(accuracies)
    )
    return drawing(
        axes.width, axes.height, alt,
        axes.frame(), tag("path", class_="band", d=outline), tag("path", class_="line", d=line),
    )  # fmt: skip


def reliability(calibration: Calibration) -> Html:
    """Draw the share of right answers by their score; a calibrated network is on the diagonal."""
    axes = Axes(420, 330, (0, 1), (0, 1), "score of the answer", _percent, _percent)
    most = max(bin_.num_videos for bin_ in calibration.bins)
    parts = [
        axes.frame(),
        tag("line", class_="diagonal", x1=axes.x(0), y1=axes.y(0), x2=axes.x(1), y2=axes.y(1)),
    ]
    for bin_ in calibration.bins:
        x = axes.x(bin_.confidence)
        title = tag(
            "title",
            f"score {bin_.confidence:.0%}: {bin_.accuracy:.0%} right ({bin_.interval}), "
            f"{counted(bin_.num_videos, 'video')}",
        )
        low, high = axes.y(bin_.interval.low), axes.y(bin_.interval.high)
        parts.append(tag("line", class_="whisker", x1=x, x2=x, y1=low, y2=high))
        radius = 3.0 + 5.0 * (bin_.num_videos / most) ** 0.5
        parts.append(tag("circle", title, class_="dot", cx=x, cy=axes.y(bin_.accuracy), r=radius))
    alt = (
        f"Reliability: answers are {calibration.mean_confidence:.1%} sure on average "
        f"and {calibration.accuracy:.1%} right"
    )
    return drawing(axes.width, axes.height, alt, *parts)


@dataclass(frozen=True)
class OrderGroup:
    """Rows of the chart of orders that are compared with each other."""

    title: str
    rows: list[tuple[str, Share]]
    chance: float
    """The share of an answer that ignores the video, drawn as a dashed line."""


def order_groups(use: TimeUse) -> list[OrderGroup]:
    """Return top-1 by order of the frames, and, for pairs, the share of videos that is told from the other class."""
    labels = use.labels_N
    most_frequent = np.bincount(labels).max() / len(labels) if len(labels) else 0.0
    groups = [
        OrderGroup("right, of all classes", [(NAMES[o], share) for o, share in use.top1.items()], float(most_frequent))
    ]  # fmt: skip
    if use.pairs:
        rows = [
            ("reversed: called the other" if order == "reversed" else NAMES[order], share)
            for order, share in use.in_pairs.items()
        ]
        groups.append(OrderGroup("right, of two that are reversals of each other", rows, 0.5))
    return groups


def orders(use: TimeUse) -> Html:
    """Draw each order's share of right answers with its interval, and the share of ``chance`` as dashes."""
    groups = order_groups(use)
    step, left, right = 24.0, 168.0, 58.0
    height = TOP + sum(step * (len(group.rows) + 1) + 10 for group in groups) + BOTTOM - 14
    width, bottom = 440.0, height - BOTTOM + 6

    def at(value: float) -> float:
        return left + value * (width - left - right)

    scale = (0.0, 0.25, 0.5, 0.75, 1.0)
    parts = [
        tag("text", f"{100 * value:g}", class_="axis mid", x=at(value), y=bottom + 16)
        for value in scale
    ]
    parts.append(tag("text", "%", class_="axis start", x=at(1.0) + 14, y=bottom + 16))
    y = TOP + step / 2
    for group in groups:
        parts.append(tag("text", group.title, class_="axis start", x=2.0, y=y + 4))
        first, last = y + step / 2, y + step * (len(group.rows) + 0.5)
        parts += [
            tag("line", class_="grid", x1=at(value), x2=at(value), y1=first, y2=last)
            for value in scale
        ]
        chance = tag("title", f"by chance: {group.chance:.0%}")
        parts.append(
            tag("line", chance, class_="mark", x1=at(group.chance), x2=at(group.chance), y1=first, y2=last)
        )  # fmt: skip
        for name, share in group.rows:
            y += step
            parts.append(_order_row(name, share, y, at))
        y += step + 10
    said = "; ".join(
        f"{group.title}: " + ", ".join(f"{name} {share.value:.0%}" for name, share in group.rows)
        for group in groups
    )
    return drawing(width, height, f"Share {said}", *parts, style="orders")


def _order_row(name: str, share: Share, y: float, at: Callable[[float], float]) -> Html:
    low, high = share.interval
    title = tag("title", f"{name}: {share.right} of {share.total} ({share.interval})")
    return join(
        tag("text", name, class_="end", x=at(0.0) - 12, y=y + 4),
        tag("rect", class_="band", x=at(low), y=y - 5, width=max(at(high) - at(low), 1.0), height=10, rx=2),
        tag("circle", title, class_="dot", cx=at(share.value), cy=y, r=5.0),
        tag("text", f"{100 * share.value:.1f}", class_="start value", x=at(1.0) + 14, y=y + 4),
    )  # fmt: skip


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
