"""The later sections of a report: the training of the network, the videos, and the origin of the figures."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from stm.checkpoint.format import config_of
from stm.checkpoint.locate import described
from stm.figures import smoothed
from stm.markup import Html, percent
from stm.plural import counted
from stm.report.facts import Facts
from stm.report.health import Health, num_unusable
from stm.report.record import Series, TrainingRecord
from stm.report.svg import Line, histogram, line_chart

MOST_BAD = 50
_WHICH = {"best": "the best of its run: ", "last": "the last of its run: ", "named": ""}
MOST_KINDS = 8


class Figure(NamedTuple):
    """A chart with a title. Without a chart, the caption is the whole content."""

    title: str
    chart: Html | None
    caption: str


def training(facts: Facts) -> dict[str, Any]:
    """Return loss, accuracy and speed, from the run's record."""
    record, meta = facts.record, facts.meta
    epochs = counted(meta.position.epoch, "epoch")
    lead = f"{counted(meta.step, 'step', ',')}, {epochs}, {counted(meta.world_size, 'worker')}; "
    lead += config_of(meta).optim.described + "."
    if not record.curves:
        return {"lead": lead + " The run's record is not on this machine.", "figures": []}
    if not record.complete:
        lead += " The run has no record, so only the steps in this checkpoint are shown."
    figures = [figure for figure in (_loss(record), _accuracy(record)) if figure is not None]
    figures += _speed(record)
    return {"lead": lead, "figures": figures}


def _loss(record: TrainingRecord) -> Figure | None:
    loss = record.curves.get("train/loss")
    if not loss:
        return None
    thin = Line(_points(loss), "each step", "faint")
    smooth = Line(_points(Series(loss.x, smoothed(loss.y))), "mean of neighbouring steps")
    lines = [thin, smooth]
    validated = record.curves.get("val_loss")
    if validated:
        lines.append(Line(_points(validated), "validation", "second"))
    alt = f"Training loss by step, from {loss.y[0]:.2f} to {loss.y[-1]:.2f}"
    chart = line_chart(lines, alt, x_label="step", y_range=(0.0, _ceiling(loss.y)))
    return Figure("Loss", chart, "training" + (", dashed: validation" if validated else ""))


def _accuracy(record: TrainingRecord) -> Figure | None:
    validated, trained = record.curves.get("val_top1"), record.curves.get("train/top1")
    lines = []
    if trained:
        lines.append(Line(_points(Series(trained.x, smoothed(trained.y))), "training", "second"))
    if validated:
        lines.append(Line(_points(validated), "validation", dots=True))
    if not lines:
        return None
    alt = "Top-1 by step"
    if validated:
        alt += f"; validation ends at {percent(float(validated.y[-1]))}"
    chart = line_chart(lines, alt, x_label="step", y_range=(0.0, 1.0), y_format=_percent)
    shown = "validation" * bool(validated) + ", " * (len(lines) > 1)
    return Figure("Top-1", chart, shown + "dashed: training (dropout, crops)" * bool(trained))


def _speed(record: TrainingRecord) -> list[Figure]:
    clips, wait = record.speed.get("clips_per_s"), record.speed.get("data_wait_share")
    if not clips:
        return []
    pauses = f"; dashes: {counted(len(record.restarts), 'restart')}" if record.restarts else ""
    alt = f"Clips per second by minutes of training, median {np.median(clips.y):.1f}"
    figures = [
        Figure(
            "Throughput",
            line_chart(
                [Line(_points(clips), "clips/s")], alt, x_label="minutes", marks=record.restarts
            ),
            f"clips/s, median {np.median(clips.y):.1f}{pauses}",
        )
    ]
    if wait:
        alt = f"Share of time waiting for data, median {percent(float(np.median(wait.y)))}"
        chart = line_chart(
            [Line(_points(wait), "wait")], alt, x_label="minutes", y_range=(0.0, 1.0),
            y_format=_percent, marks=record.restarts,
        )  # fmt: skip
        caption = f"share of a worker's time, median {percent(float(np.median(wait.y)))}"
        figures.append(Figure("Waiting for data", chart, caption))
    return figures


def _points(series: Series, most: int = 800) -> list[tuple[float, float]]:
    """Return at most ``most`` points; of a longer curve, means of neighbouring points."""
    if len(series.x) <= most:
        return list(zip(series.x.tolist(), series.y.tolist(), strict=True))
    edges = np.linspace(0, len(series.x), most + 1).astype(int)
    return [
        (float(series.x[a:b].mean()), float(series.y[a:b].mean()))
        for a, b in itertools.pairwise(edges)
    ]


def _ceiling(values: np.ndarray) -> float:
    """Return the top of the loss axis, which cuts off much larger values at the start, so that the rest is visible."""
    return float(min(values.max(), 2.5 * np.quantile(values, 0.9))) * 1.05 or 1.0


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def data(facts: Facts) -> dict[str, Any]:
    """Return the videos' properties, and the failures with their reasons."""
    health, manifest = facts.health, facts.manifest
    bad = num_unusable(health)
    failed_now = len(facts.scores.failures) - bad
    lead = f"{counted(len(manifest), 'video', ',')} of {manifest.dataset}: {len(manifest) - bad:,} usable when indexed"
    lead += f", {bad:,} not" if bad else ""
    lead += (
        f"; {counted(failed_now, 'more failure', ',')} while measuring." if failed_now > 0 else "."
    )
    # Each failure once, for any number of views.
    failures = {(f["video_id"], f["reason"]): f for f in facts.scores.failures}
    return {
        "lead": lead,
        "failures": list(failures.values()),
        "most_failures": MOST_BAD,
        "lengths": _lengths(health),
        "kinds": {
            "codec": _largest(health.codecs),
            "size": _largest(health.sizes),
            "frames per second": _largest(health.rates),
        },
        "not_for_decord": _guard(health),
    }


def _lengths(health: Health) -> list[Figure]:
    figures = []
    for values, label in ((health.seconds_N, "seconds"), (health.frames_N, "frames")):
        if not len(values):
            continue
        low, high = float(values.min()), float(values.max())
        if high <= low:
            said = f"All videos have {low:g} {label}."
            figures.append(Figure(f"Length in {label}", None, said))
            continue
        counts, edges = np.histogram(values, bins=min(30, max(5, round(len(values) ** 0.5))))
        alt = f"Lengths in {label}: median {np.median(values):.4g}, from {low:.4g} to {high:.4g}"
        chart = histogram(edges.tolist(), counts.tolist(), alt, x_label=label)
        figures.append(Figure(f"Length in {label}", chart, f"videos; {alt.split(': ')[1]}"))
    return figures


def _largest(counts: dict[str, int]) -> dict[str, int]:
    shown = dict(list(counts.items())[:MOST_KINDS])
    rest = sum(counts.values()) - sum(shown.values())
    return {**shown, counted(len(counts) - MOST_KINDS, "other"): rest} if rest else shown


def _guard(health: Health) -> str:
    """Return why some videos are not read with decord, and how many; "" if all are."""
    reasons: Counter[str] = Counter()
    for why, count in health.not_for_decord.items():
        # The rest of a reason differs between files.
        reasons[re.split(r"[:(]", why)[0].strip()] += count
    return ", ".join(f"{why} ({count:,})" for why, count in reasons.most_common(MOST_KINDS))


def provenance(facts: Facts) -> dict[str, Any]:
    """Return what is needed to reproduce and compare the figures."""
    import yaml

    meta = facts.meta
    shown = {
        "measured": f"{facts.when} UTC, {facts.seconds:,.0f} s" if facts.when else None,
        "protocol": f"{facts.protocol}: {facts.num_views} view{'s' * (facts.num_views > 1)} of "
        f"{counted(facts.num_segments, 'frame')} at {facts.size} px",
        "checkpoint": facts.checkpoint,
        "taken": _WHICH[facts.which] + described(meta),
        "model (sha256)": facts.model_fingerprint,
        "manifest": facts.manifest_path,
        "manifest (fingerprint)": facts.manifest_fingerprint or facts.manifest.fingerprint,
        "trained on (fingerprint)": meta.fingerprint,
        "MLflow run": meta.mlflow_run_id,
        "trained with": _versions(meta.versions),
        "measured with": _versions(facts.versions),
    }
    config = yaml.safe_dump(meta.config, sort_keys=False, allow_unicode=True)
    return {"described": shown, "config": config}


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
