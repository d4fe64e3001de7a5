"""Draw the paper's first figure for any video: rows for the frames and each kind of map, a column for each segment."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stm.errors import UserError
from stm.explain.colours import Scale
from stm.storage import write_bytes

HOW = (
    "Each cell of a map shows the mean over channels of the absolute feature value. All frames of a row share a "
    "colour scale, whose range is at the right."
)
HOW_EVIDENCE = (
    "Class evidence is the class-activation map of the last features minus the mean over all classes, "
    "over the frame in grey. Orange is evidence for the class, and purple evidence against it."
)
INK, MUTED = "#1a1a1a", "#5f6368"
TEXT = {"color": INK, "parse_math": False}  # a dollar sign in a name does not start a formula
_LABEL, _SCALE, _GAP, _MARGIN = 1.85, 0.6, 0.05, 0.2  # inches


@dataclass(frozen=True)
class Row:
    """A row of the figure, with a picture for each column."""

    name: str
    note: str
    pictures: np.ndarray
    """uint8 [T, H, W, 3], or maps, float [T, h, w], which are coloured cell by cell."""
    scale: Scale | None = None
    """None for the frames themselves."""
    after_gap: bool = False
    """Whether there is a gap above the row."""


def draw(
    path: Path,
    rows: Sequence[Row],
    *,
    title: str,
    subtitle: str,
    columns: Sequence[str],
    footer: Sequence[str],
    dpi: int = 130,
) -> Path:
    """Write the figure as PNG, and return its path.

    Args:
        path: The file to write.
        rows: The rows from the top, each with a picture for every column.
        title: One line.
        subtitle: One line.
        columns: The text above each column.
        footer: Paragraphs below the figure.
        dpi: Pixels per inch. With 8 columns, a cell is 1.2 inches wide.

    Raises:
        UserError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cell = min(1.2, 11.0 / len(columns))
    gaps = [0.0 if not i else (0.22 if row.after_gap else _GAP) for i, row in enumerate(rows)]
    footer = [
        line for text in footer for line in _wrap(text, cell * len(columns) + _LABEL + _SCALE)
    ]
    width = 2 * _MARGIN + _LABEL + len(columns) * (cell + _GAP) + _SCALE
    head = 1.02 if any("\n" in words for words in columns) else 0.9
    foot = 0.24 + 0.16 * len(footer)
    height = head + len(rows) * cell + sum(gaps) + foot
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)

    def text(x: float, down: float, words: str, **style: Any) -> None:
        figure.text(x / width, 1 - down / height, words, **{**TEXT, "va": "top", **style})

    text(_MARGIN, 0.14, title, fontsize=13, weight="bold")
    text(_MARGIN, 0.40, subtitle, fontsize=9, color=MUTED)
    left = _MARGIN + _LABEL
    for column, words in enumerate(columns):
        middle = left + column * (cell + _GAP) + cell / 2
        text(middle, head - 0.05, words, fontsize=7.5, ha="center", va="bottom", color=MUTED)
    down = head
    for row, gap in zip(rows, gaps, strict=True):
        down += gap
        text(_MARGIN, down + cell / 2 - 0.05, row.name, fontsize=9.5, weight="bold", va="bottom")
        text(_MARGIN, down + cell / 2 - 0.01, row.note, fontsize=7.5, color=MUTED, linespacing=1.3)
        for column, picture in enumerate(_painted(row)):
            x = left + column * (cell + _GAP)
            axes = figure.add_axes(_box(x, down, cell, cell, width, height))
            axes.imshow(picture, interpolation="nearest" if row.pictures.ndim == 3 else "auto")
            axes.set_axis_off()
        if row.scale is not None:
            x = left + len(columns) * (cell + _GAP) + 0.06
            _draw_scale(
                figure.add_axes(_box(x, down + 0.08, 0.1, cell - 0.16, width, height)), row.scale
            )
        down += cell
    for number, line in enumerate(footer):
        text(_MARGIN, down + 0.13 + 0.16 * number, line, fontsize=7.5, color=MUTED)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi, format=path.suffix[1:] or "png")
    try:
        write_bytes(str(path), buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _painted(row: Row) -> np.ndarray:
    if row.scale is None or row.pictures.ndim == 4:
        return row.pictures
    return row.scale.paint(row.pictures)


def _draw_scale(axes: Any, scale: Scale) -> None:
    axes.imshow(np.linspace(1, 0, 128)[:, None], cmap=scale.colours, aspect="auto", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks([0, 127], [number(scale.high), number(scale.low)])
    axes.tick_params(length=0, pad=3, labelsize=7.5, labelcolor=MUTED)
    for side in axes.spines.values():
        side.set_visible(False)


def number(value: float) -> str:
    """Format a number with three digits and a minus sign."""
    return f"{value:.3g}".replace("-", "−")


def _box(x: float, down: float, w: float, h: float, width: float, height: float) -> Any:
    return x / width, 1 - (down + h) / height, w / width, h / height


def _wrap(words: str, inches: float) -> list[str]:
    import textwrap

    return textwrap.wrap(words, int(inches * 18.5))
