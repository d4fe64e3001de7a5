"""The later sections of a report: how the network was trained, what the videos are, and what made the figures."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import numpy as np

from stm.figures import smoothed
from stm.report.facts import Facts
from stm.report.health import Health, num_unusable
from stm.report.markup import Html, tag
from stm.report.parts import percent, section, table
from stm.report.record import Series, TrainingRecord
from stm.report.svg import Line, histogram, line_chart

MOST_BAD = 50
MOST_KINDS = 8


def training(facts: Facts) -> Html:
    """Loss, accuracy and speed, from the run's record."""
    record, meta = facts.record, facts.meta
    epochs = f"{meta.position.epoch} epochs" if meta.position.epoch != 1 else "1 epoch"
    lead = f"{meta.step:,} steps, {epochs}, {meta.world_size} worker{'s' * (meta.world_size != 1)}."
    if not record.curves:
        return section("training", "Training", lead + " The run's record is not on this machine.")
    if not record.complete:
        lead += " The run kept no record; the last checkpoint remembers the steps since the one before it."
    figures = [figure for figure in (_loss(record), _accuracy(record)) if figure is not None]
    figures += _speed(record)
    return section("training", "Training", lead, tag("div", *figures, class_="two"))


def _loss(record: TrainingRecord) -> Html | None:
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
    return _figure("Loss", chart, "training" + (", dashed: validation" if validated else ""))


def _accuracy(record: TrainingRecord) -> Html | None:
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
    return _figure("Top-1", chart, shown + "dashed: training (dropout, crops)" * bool(trained))


def _speed(record: TrainingRecord) -> list[Html]:
    clips, wait = record.speed.get("clips_per_s"), record.speed.get("data_wait_share")
    if not clips:
        return []
    pauses = f"; dashes: {len(record.restarts)} restarts" if record.restarts else ""
    alt = f"Clips per second by minutes of training, median {np.median(clips.y):.1f}"
    figures = [
        _figure(
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
        figures.append(_figure("Waiting for data", chart, caption))
    return figures


def _figure(title: str, chart: Html, caption: str) -> Html:
    return tag("div", tag("h3", title), chart, tag("p", caption, class_="muted small"))


def _points(series: Series, most: int = 800) -> list[tuple[float, float]]:
    """At most ``most`` points: means of neighbours, where a curve has more than a screen can show."""
    if len(series.x) <= most:
        return list(zip(series.x.tolist(), series.y.tolist(), strict=True))
    edges = np.linspace(0, len(series.x), most + 1).astype(int)
    return [
        (float(series.x[a:b].mean()), float(series.y[a:b].mean()))
        for a, b in itertools.pairwise(edges)
    ]


def _ceiling(values: np.ndarray) -> float:
    """A loss's first steps may tower above the rest: they are cut rather than flatten it."""
    return float(min(values.max(), 2.5 * np.quantile(values, 0.9))) * 1.05 or 1.0


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def data(facts: Facts) -> Html:
    """Which videos there are, which could not be used and why."""
    health, manifest = facts.health, facts.manifest
    bad = num_unusable(health)
    failed_now = len(facts.scores.failures) - bad
    lead = f"{len(manifest):,} videos of {manifest.dataset}: {len(manifest) - bad:,} usable when indexed"
    lead += f", {bad:,} not" if bad else ""
    lead += f"; {failed_now:,} more failures while measuring." if failed_now > 0 else "."
    lengths = _lengths(health)
    kinds = tag(
        "div",
        _kinds("codec", health.codecs),
        _kinds("size", health.sizes),
        _kinds("frames per second", health.rates),
        class_="three",
    )
    return section("data", "Data", lead, _bad_videos(facts), lengths, kinds, _guard(health))


def _lengths(health: Health) -> Html | None:
    figures = []
    for values, label in ((health.seconds_N, "seconds"), (health.frames_N, "frames")):
        if not len(values):
            continue
        low, high = float(values.min()), float(values.max())
        if high <= low:
            said = f"All videos have {low:g} {label}."
            figures.append(tag("div", tag("h3", f"Length in {label}"), tag("p", said)))
            continue
        counts, edges = np.histogram(values, bins=min(30, max(5, round(len(values) ** 0.5))))
        alt = f"Lengths in {label}: median {np.median(values):.4g}, from {low:.4g} to {high:.4g}"
        chart = histogram(edges.tolist(), counts.tolist(), alt, x_label=label)
        figures.append(_figure(f"Length in {label}", chart, f"videos; {alt.split(': ')[1]}"))
    return tag("div", *figures, class_="two") if figures else None


def _kinds(name: str, counts: dict[str, int]) -> Html:
    shown = dict(list(counts.items())[:MOST_KINDS])
    rest = sum(counts.values()) - sum(shown.values())
    if rest:
        shown[f"{len(counts) - MOST_KINDS} others"] = rest
    rows = [
        tag("tr", tag("td", kind), tag("td", f"{count:,}", class_="number"))
        for kind, count in shown.items()
    ]
    return tag("div", table([name, "videos"], rows, numbers=(1,)))


def _bad_videos(facts: Facts) -> Html | None:
    failures = facts.scores.failures
    if not failures:
        return None
    seen = {(f["video_id"], f["reason"]): f for f in failures}  # once, whatever the number of views
    rows = [
        tag(
            "tr",
            tag("td", failure["video_id"]),
            tag("td", failure["reason"], class_="nowrap"),
            tag("td", failure["detail"]),
        )
        for failure in list(seen.values())[:MOST_BAD]
    ]
    more = len(seen) - MOST_BAD
    return tag(
        "div",
        tag("h3", "Could not be read"),
        table(["video", "reason", "in words"], rows),
        tag("p", f"{more:,} more are in scores.parquet.", class_="muted small")
        if more > 0
        else None,
    )


def _guard(health: Health) -> Html | None:
    if not health.not_for_decord:
        return None
    reasons: Counter[str] = Counter()
    for why, count in health.not_for_decord.items():
        reasons[re.split(r"[:(]", why)[0].strip()] += (
            count  # what follows differs from file to file
        )
    said = ", ".join(f"{why} ({count:,})" for why, count in reasons.most_common(MOST_KINDS))
    return tag("p", f"Not read by decord, which would not be exact: {said}.", class_="muted small")


def provenance(facts: Facts) -> Html:
    """What made these figures, so that they can be made again and compared."""
    import yaml

    meta = facts.meta
    described = {
        "measured": f"{facts.when} UTC, {facts.seconds:,.0f} s" if facts.when else None,
        "protocol": f"{facts.protocol}: {facts.num_views} view{'s' * (facts.num_views > 1)} of "
        f"{facts.num_segments} frames at {facts.size} px",
        "checkpoint": facts.checkpoint,
        "model (sha256)": facts.model_fingerprint,
        "manifest": facts.manifest_path,
        "manifest (fingerprint)": facts.manifest_fingerprint or facts.manifest.fingerprint,
        "trained on (fingerprint)": meta.fingerprint,
        "MLflow run": meta.mlflow_run_id,
        "trained with": _versions(meta.versions),
        "measured with": _versions(facts.versions),
    }
    items = []
    for name, value in described.items():
        if value:
            items += [tag("dt", name), tag("dd", value)]
    config = yaml.safe_dump(meta.config, sort_keys=False, allow_unicode=True)
    return section(
        "made",
        "How it was made",
        "",
        tag("h3", "Command"),
        tag("pre", facts.command, class_="wrap"),
        tag("dl", *items),
        tag(
            "details",
            tag("summary", "The configuration that trained it (stm train --config)"),
            tag("pre", config, tabindex="0"),
        ),
    )


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
