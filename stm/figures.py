"""Figures of training runs and sweeps, as PNG files; ``stm.report.pictures`` draws those of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stm.plural import counted
from stm.spool import series
from stm.storage import write_bytes

INK, MUTED, RIGHT, WRONG = "#1b1f23", "#5b636b", "#868e96", "#b5481a"
"""Colours of an evaluation's figures, as in the report's light page."""

CURVES = ("train/loss", "train/top1", "val_loss", "val_top1")
"""The metrics of a run that `plot_training` draws."""


def new_figure(width: float, height: float, columns: int = 1, rows: int = 1) -> tuple[Any, Any]:
    """Return a figure of ``width`` x ``height`` inches, which needs no screen, and its axes."""
    import logging

    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Letters that the font lacks are drawn as boxes; matplotlib would warn of each one.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    figure, grid = pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained")
    for axes in np.atleast_1d(grid).ravel():
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def save(figure: Any, path: Path) -> Path:
    """Write a figure as a PNG, whole or not at all, and close it."""
    import io
    import warnings

    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=130, format="png")
    write_bytes(str(path), buffer.getvalue())
    pyplot.close(figure)
    return path


def plain(text: str, longest: int = 40) -> str:
    """Escape a name for matplotlib, which reads text between two dollar signs as a formula, and shorten it."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def plot_curves(path: Path, runs: dict[str, Path]) -> Path:
    """Draw `plot_training` for runs, from their spools (``tracking.jsonl``)."""
    curves = {}
    for run, spool in runs.items():
        found = {name: sorted(series(spool, name).items()) for name in CURVES}
        curves[run] = {name: np.array(rows).T for name, rows in found.items() if rows}
    return plot_training(path, curves)


def plot_training(path: Path, runs: dict[str, dict[str, Any]]) -> Path:
    """Plot loss and top-1 by step: of one run in training and validation, of several the training loss and val top-1.

    A run is a dict from each of `CURVES` that it has to a pair of arrays (steps, values).
    """
    figure, (loss_axes, top1_axes) = new_figure(10, 4, columns=2)
    is_one = len(runs) == 1
    for number, (run, curves) in enumerate(runs.items()):
        for name in CURVES if is_one else ("train/loss", "val_top1"):
            if name not in curves:
                continue
            axes, unit = (loss_axes, 1) if name.endswith("loss") else (top1_axes, 100)
            steps, values = curves[name][0], unit * np.asarray(curves[name][1])
            is_training = name.startswith("train/")
            colour = (WRONG if is_training else INK) if is_one else f"C{number}"
            label = ("training" if is_training else "validation") if is_one else run
            if not is_training:
                axes.plot(steps, values, color=colour, label=label, marker="o", markersize=4)
                continue
            axes.plot(steps, smoothed(values), color=colour, label=label)
            if is_one and axes is loss_axes:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
    kinds = ("loss", "top-1, %") if is_one else ("training loss", "validation top-1, %")
    loss_axes.set(xlabel="step", ylabel=kinds[0], ylim=(0, None))
    top1_axes.set(xlabel="step", ylabel=kinds[1], ylim=(0, 103))
    for axes in (loss_axes, top1_axes):
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(frameon=False)
    return save(figure, path)


def smoothed(values: np.ndarray | Sequence[float]) -> np.ndarray:
    """Return a curve's moving mean over 1/40 of its points, at least 5; the first and last points are repeated."""
    window = max(5, len(values) // 40) | 1
    padded = np.pad(np.asarray(values), window // 2, mode="edge")
    return np.convolve(padded, np.ones(window) / window, mode="valid")


def plot_bars(path: Path, values: dict[str, float], title: str, unit: str) -> Path:
    """Draw horizontal bars in the given order, each with its value."""
    figure, axes = new_figure(7, 1.2 + 0.4 * len(values))
    bars = axes.barh(list(values), list(values.values()), color="tab:blue")
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(title=title, xlabel=unit)
    return save(figure, path)


@dataclass(frozen=True)
class TrialCurve:
    """The data of one trial of a sweep that the figures need."""

    name: str
    epochs: list[int]
    values: list[float]
    costs: list[float]
    group: str
    lr: float
    ended: str


def plot_trials(path: Path, trials: list[TrialCurve], metric: str) -> Path:
    """Plot every trial's metric by epoch; a cross marks a trial that ended early."""
    return _plot_by(path, trials, metric, "epochs", [trial.epochs for trial in trials])


def plot_cost(path: Path, trials: list[TrialCurve], metric: str, unit: str) -> Path:
    """Plot every trial's metric by its cost so far: an epoch with more segments costs more."""
    return _plot_by(path, trials, metric, unit, [trial.costs for trial in trials])


def _plot_by(
    path: Path, trials: list[TrialCurve], metric: str, label: str, across: list[list[Any]]
) -> Path:
    figure, axes = new_figure(8, 5)
    colours = _colours(trials)
    seen: set[str] = set()
    for trial, places in zip(trials, across, strict=True):
        style = {"color": colours[trial.group], "alpha": 0.75}
        name = None if trial.group in seen else trial.group
        seen.add(trial.group)
        axes.plot(places, trial.values, marker="o", markersize=3, label=name, **style)
        if trial.ended != "finished":
            axes.plot(places[-1], trial.values[-1], marker="x", markersize=9, **style)
    axes.set(
        xlabel=label, ylabel=metric, title=f"{counted(len(trials), 'trial')}; a cross: ended early"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return save(figure, path)


def plot_over_lr(path: Path, trials: list[TrialCurve], metric: str, mode: str) -> Path:
    """Plot every trial's best value by its learning rate; a hollow point marks a trial that ended early."""
    figure, axes = new_figure(8, 5)
    colours, best = _colours(trials), max if mode == "max" else min
    for group, colour in colours.items():
        points = sorted((t.lr, best(t.values), t.ended) for t in trials if t.group == group)
        rates, values = [p[0] for p in points], [p[1] for p in points]
        axes.plot(rates, values, color=colour, alpha=0.4, label=group)
        for rate, value, ended in points:
            fill = colour if ended == "finished" else "none"
            axes.plot(rate, value, "o", markeredgecolor=colour, markerfacecolor=fill)
    axes.set(xscale="log", xlabel="learning rate", ylabel=f"best {metric}")
    axes.set_title("hollow: ended early")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    return save(figure, path)


def _colours(trials: list[TrialCurve]) -> dict[str, str]:
    groups = sorted({trial.group for trial in trials}, key=lambda group: (len(group), group))
    return {group: f"C{number}" for number, group in enumerate(groups)}
