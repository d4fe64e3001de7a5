"""The report's figures as PNG files, for slides and for MLflow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from stm.figures import INK, MUTED, RIGHT, WRONG, new_figure, plain, plot_training, save
from stm.report.charts import order_groups
from stm.report.confusions import ordered_confusion
from stm.report.facts import Facts
from stm.report.hardest import HardVideo
from stm.report.intervals import wilson
from stm.report.time_use import TimeUse


def draw(facts: Facts, videos: list[HardVideo], folder: Path) -> dict[str, Path]:
    """Draw calibration, orders of frames, training, speed and hardest videos, if there are data; return their paths."""
    files: dict[str, Path] = {}
    if facts.calibration is not None:
        files["calibration"] = _calibration(facts, folder / "calibration.png")
    if facts.time_use is not None:
        files["time"] = _orders(facts.time_use, folder / "time.png")
    if facts.record.curves:
        curves = {name: (series.x, series.y) for name, series in facts.record.curves.items()}
        files["training"] = plot_training(folder / "training.png", {facts.run: curves})
    if facts.record.speed:
        files["speed"] = _speed(facts, folder / "speed.png")
    if any(video.strip for video in videos):
        files["hardest"] = _hardest(facts, videos, folder / "hardest.png")
    return files


def plot_confusion(path: Path, confusion_KK: np.ndarray, classes: list[str], title: str) -> Path:
    """Draw the confusion matrix as shares of each row, in `seriate`'s order; up to 30 classes, with counts."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    size = len(classes)
    counts, shares, order = ordered_confusion(confusion_KK)
    colours = np.ones((size, size, 3))
    for is_right, colour in ((True, RIGHT), (False, WRONG)):
        ramp = LinearSegmentedColormap.from_list("", [(1.0, 1.0, 1.0), to_rgb(colour)])
        mask = np.eye(size, dtype=bool) == is_right
        colours[mask] = ramp(shares[mask] ** (1.0 if size <= 60 else 0.5))[:, :3]
    side = min(14.0, 2.5 + 0.45 * size)
    figure, axes = new_figure(side, side)
    axes.imshow(colours, interpolation="nearest")
    axes.set(title=title, xlabel="answered", ylabel="true class")
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
    if size <= 60:
        names = [plain(classes[i], 28) for i in order]
        axes.set_xticks(range(size), names, rotation=90)
        axes.set_yticks(range(size), names)
        axes.tick_params(length=0)
    if size <= 30:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                dark = row != column and shares[row, column] > 0.6
                colour = "white" if dark else INK
                axes.text(
                    column, row, int(count), ha="center", va="center", color=colour, fontsize=8
                )
    return save(figure, path)


def plot_per_class(
    path: Path, per_class: list[float | None], counts: list[int], classes: list[str], title: str
) -> Path:
    """Draw the top-1 of every class with videos and its 95 % interval (Wilson), best first; above 120, as a curve."""
    order = sorted(
        (i for i, a in enumerate(per_class) if a is not None), key=lambda i: -(per_class[i] or 0)
    )
    shares = [per_class[i] or 0.0 for i in order]
    limits = [
        wilson(round(share * counts[i]), counts[i]) for share, i in zip(shares, order, strict=True)
    ]
    low, high = ([100 * limit[side] for limit in limits] for side in (0, 1))
    places, values = np.arange(len(order)), [100 * share for share in shares]
    if len(order) > 120:
        figure, axes = new_figure(10, 4)
        axes.fill_between(places, low, high, color=WRONG, alpha=0.2, linewidth=0)
        axes.plot(places, values, color=WRONG)
        axes.set(title=title, xlabel="classes, best first", ylabel="top-1, %", ylim=(0, 102))
        return save(figure, path)
    figure, axes = new_figure(7, 1.5 + 0.25 * len(order))
    axes.hlines(places, low, high, color=WRONG, alpha=0.4, linewidth=5)
    axes.plot(values, places, "o", color=WRONG, markersize=5)
    names = [f"{plain(classes[i])} ({counts[i]})" for i in order]
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set(title=title, xlabel="top-1, %", xlim=(-2, 102))
    return save(figure, path)


def _calibration(facts: Facts, path: Path) -> Path:
    calibration = facts.calibration
    assert calibration is not None
    figure, axes = new_figure(5, 5)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    x = np.array([bin_.confidence for bin_ in calibration.bins])
    y = np.array([bin_.accuracy for bin_ in calibration.bins])
    low = np.array([bin_.interval.low for bin_ in calibration.bins])
    high = np.array([bin_.interval.high for bin_ in calibration.bins])
    counts = np.array([bin_.num_videos for bin_ in calibration.bins])
    axes.vlines(x, low, high, color=WRONG, alpha=0.5)
    axes.scatter(x, y, s=15 + 90 * counts / counts.max(), color=WRONG, zorder=3)
    axes.set(
        xlim=(0, 1.02), ylim=(0, 1.02), xlabel="score of the answer", ylabel="share that was right"
    )
    axes.set_title(
        f"calibration error {calibration.ece:.1%}; by chance {calibration.ece_by_chance[0]:.1%}"
    )
    axes.set_aspect("equal")
    return save(figure, path)


def _orders(use: TimeUse, path: Path) -> Path:
    groups = order_groups(use)
    figure, places = new_figure(5.5 * len(groups), 2.6, columns=len(groups))
    for axes, group in zip(np.atleast_1d(places), groups, strict=True):
        rows = np.arange(len(group.rows))
        shares = [share for _, share in group.rows]
        low, high = ([100 * share.interval[side] for share in shares] for side in (0, 1))
        axes.axvline(100 * group.chance, color=MUTED, linestyle=":")
        axes.hlines(rows, low, high, color=WRONG, alpha=0.4, linewidth=6)
        axes.plot([100 * share.value for share in shares], rows, "o", color=WRONG)
        axes.set_yticks(rows, [f"{name}, {100 * share.value:.1f}" for name, share in group.rows])
        axes.invert_yaxis()
        axes.set(xlabel="%", xlim=(-2, 102))
        axes.set_title(group.title, fontsize=10, loc="right")
    return save(figure, path)


def _speed(facts: Facts, path: Path) -> Path:
    figure, (clip_axes, wait_axes) = new_figure(10, 3.2, columns=2)
    named: tuple[tuple[Any, str, str], ...] = (
        (clip_axes, "clips_per_s", "clips/s"),
        (wait_axes, "data_wait_share", "share of time waiting for data"),
    )
    for axes, name, label in named:
        series = facts.record.speed[name]
        axes.plot(series.x, series.y, color=WRONG)
        for minute in facts.record.restarts:
            axes.axvline(minute, color=MUTED, linestyle=":")
        axes.set(xlabel="minutes of training", ylabel=label, ylim=(0, None))
    wait_axes.set_ylim(0, 1)
    return save(figure, path)


def _hardest(facts: Facts, videos: list[HardVideo], path: Path) -> Path:
    from PIL import Image

    shown = [video for video in videos if video.strip is not None]
    rows = -(-len(shown) // 2)
    figure, grid = new_figure(12, 1.75 * rows, columns=2, rows=rows)
    places = np.atleast_1d(grid).ravel()
    for axes in places:
        axes.axis("off")
    for axes, video in zip(places, shown, strict=False):
        axes.imshow(np.asarray(Image.open(io.BytesIO(video.strip or b""))))
        answer, score = video.answers[0]
        said = f"{plain(facts.classes[video.true])} taken for {plain(facts.classes[answer])}, {score:.0%}"
        if not video.is_wrong:
            said = f"{plain(facts.classes[video.true])} recognised, {score:.0%}"
        axes.set_title(said, loc="left", fontsize=9, color=WRONG if video.is_wrong else RIGHT)
    return save(figure, path)
