"""The results of a sweep: the live table, ``results.parquet``, ``best.yaml`` and the figures.

    SWEEP/reports.jsonl      reports of the trials in order; it grows while the sweep runs
    SWEEP/results.parquet    one row for each trial and validated epoch
    SWEEP/best.yaml          the best trial's settings, for `stm train --config`
    SWEEP/*.png              every trial's curve, accuracy over learning rate and over cost, importance

Row of results.parquet:

    column        dtype     meaning
    trial         string    trial id
    state         string    finished, stopped early, failed, interrupted
    why           string    why it ended
    epoch         int64     epochs done
    clips         int64     clips trained on
    cost          float64   GPU-seconds, on a cluster without GPUs CPU-seconds, that the trial held
    val_*         float64   validation metrics, as in `stm train`
    SETTING       any       each searched setting, by its dotted name
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stm import spool
from stm.config import Config
from stm.errors import UserError
from stm.plural import counted
from stm.storage import write_bytes
from stm.tune.settings import Sweep

REPORTS = "reports.jsonl"


@dataclass
class TrialRecord:
    """What is known of one trial."""

    trial: str
    settings: dict[str, Any]
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics by number of epochs done."""
    state: str = "waiting"
    why: str = ""
    restarts: int = 0

    @property
    def last_epoch(self) -> int:
        return max(self.epochs, default=0)

    def last(self, name: str) -> float | None:
        return self.epochs[self.last_epoch].get(name) if self.epochs else None

    def best(self, metric: str, mode: str) -> float | None:
        values = [row[metric] for row in self.epochs.values() if metric in row]
        if not values:
            return None
        return max(values) if mode == "max" else min(values)


def append(path: Path, **row: Any) -> None:
    """Append one report and flush it to disk, since the driver may be killed at any time."""
    spool.append(path, row)


def read_reports(path: Path) -> list[TrialRecord]:
    """Return all trials in order of their start; a report that is repeated after a restart counts once."""
    records: dict[str, TrialRecord] = {}
    for row in spool.read(path):
        _apply(records, row)
    return list(records.values())


def _apply(records: dict[str, TrialRecord], row: dict[str, Any]) -> None:
    trial = row["trial"]
    if row["kind"] == "start":
        if trial in records:
            records[trial].restarts += 1
        known = records.setdefault(trial, TrialRecord(trial, row["settings"]))
        known.settings, known.state, known.why = row["settings"], "training", ""
    elif row["kind"] == "epoch":
        records[trial].epochs[row["metrics"]["epoch"]] = row["metrics"]
    elif row["kind"] == "end":
        records[trial].state, records[trial].why = row["state"], row["why"]


def close_unknown(path: Path, known: set[str]) -> None:
    """End the reported trials that Ray Tune does not know: the driver was killed before Ray Tune saved its state.

    Other trials have replaced them, so nothing else would end them.
    """
    for trial in read_reports(path):
        if trial.state == "training" and trial.trial not in known:
            why = "the driver was killed as it began, and another trial took its place"
            append(path, kind="end", trial=trial.trial, state="interrupted", why=why)


def best_of(records: Iterable[TrialRecord], sweep: Sweep) -> TrialRecord | None:
    """Return the trial with the best validated epoch; the cheaper one if two are equal."""
    sign = -1.0 if sweep.mode == "max" else 1.0
    ranked = []
    for record in records:
        value = record.best(sweep.metric, sweep.mode)
        if value is not None and record.state != "failed":
            ranked.append((sign * value, record.last("cost") or 0.0, record.trial, record))
    return min(ranked)[-1] if ranked else None


def show_value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table_rows(records: list[TrialRecord], sweep: Sweep, epochs: int) -> list[list[str]]:
    """Return the header and one row per trial, best first."""
    names = list(sweep.space)
    header = ["trial", "state", "epoch", sweep.metric, "best", "cost", *names]

    def order(record: TrialRecord) -> float:
        value = record.best(sweep.metric, sweep.mode)
        if value is None:
            return math.inf
        return -value if sweep.mode == "max" else value

    rows = [header]
    for record in sorted(records, key=order):
        rows.append(
            [
                record.trial,
                record.state,
                f"{record.last_epoch}/{epochs}",
                _metric(record.last(sweep.metric), sweep.metric),
                _metric(record.best(sweep.metric, sweep.mode), sweep.metric),
                f"{record.last('cost') or 0:.0f}",
                *(show_value(record.settings[name]) for name in names),
            ]
        )
    return rows


def _metric(value: float | None, name: str) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if name == "val_loss" else f"{value:.1%}"


def write_parquet(path: Path, records: list[TrialRecord]) -> Path:
    """Write the table of the module docstring; a trial without reports has one row, without an epoch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for record in records:
        settings = {
            name: json.dumps(value) if isinstance(value, list | dict) else value
            for name, value in record.settings.items()
        }
        common = {"trial": record.trial, "state": record.state, "why": record.why}
        for metrics in [record.epochs[epoch] for epoch in sorted(record.epochs)] or [{}]:
            rows.append({**common, **metrics, **settings})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.BytesIO()
    pq.write_table(
        pa.table({key: _column([row.get(key) for row in rows]) for key in columns}), buffer
    )
    write_bytes(str(path), buffer.getvalue())
    return path


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:  # such as choice(1, auto): a column has one type
        values = [None if value is None else str(value) for value in values]
    return pa.array([float(v) for v in values] if kinds == {int, float} else values)


def write_best(path: Path, sweep: Sweep, record: TrialRecord, epochs: int, unit: str) -> Path:
    """Write all settings of the best trial, with a new run name."""
    import yaml

    drawn = dict(record.settings)
    config = sweep.config_of(drawn, epochs)
    config = replace(
        config,
        train=replace(
            config.train, name=f"{sweep.name}-best", validation=sweep.base.train.validation
        ),
    )
    value = record.best(sweep.metric, sweep.mode)
    text = (
        f"# The best of sweep {sweep.name}: trial {record.trial}, {sweep.metric} {value:.4f} after "
        f"{record.last_epoch} of {counted(epochs, 'epoch')}, {record.last('cost') or 0:.0f} {unit}.\n"
        f"#   stm train --config {path}\n"
    )
    text += yaml.safe_dump(config.to_dict(), sort_keys=False)
    write_bytes(str(path), text.encode())
    return path


def importance(records: list[TrialRecord], sweep: Sweep) -> dict[str, float]:
    """Return the share of the metric's variance that each setting explains, by Optuna's fANOVA (a random forest).

    It uses the best value of each trial. Empty with fewer than four trials, or if nothing varies.
    """
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = [(r, r.best(sweep.metric, sweep.mode)) for r in records if r.state != "failed"]
    known = [(record, value) for record, value in known if value is not None]
    if len(known) < 4 or len({value for _, value in known}) < 2:
        return {}
    study = optuna.create_study()
    distributions: dict[str, Any] = {}
    for name, domain in sweep.space.items():
        if domain.is_list:
            values = [_plain(value) for value in domain.arguments]
            distributions[name] = CategoricalDistribution(values)
        else:
            low, high = (float(argument) for argument in domain.arguments[:2])
            distributions[name] = FloatDistribution(low, high, log=domain.kind == "loguniform")
    for record, value in known:
        settings = {name: _plain(record.settings[name]) for name in sweep.space}
        for name, domain in sweep.space.items():
            if not domain.is_list:
                settings[name] = float(settings[name])
        study.add_trial(
            optuna.create_trial(params=settings, distributions=distributions, value=value)
        )
    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except (ValueError, RuntimeError, ZeroDivisionError):
        return {}
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def draw(
    folder: Path, records: list[TrialRecord], sweep: Sweep, unit: str
) -> tuple[list[Path], dict[str, float]]:
    """Write all figures that the trials allow; return their paths and the importance of settings."""
    from stm import figures

    curves = [
        figures.TrialCurve(
            name=record.trial,
            epochs=sorted(record.epochs),
            values=[record.epochs[e].get(sweep.metric, math.nan) for e in sorted(record.epochs)],
            costs=[record.epochs[e]["cost"] for e in sorted(record.epochs)],
            group=_group(record, sweep),
            lr=float(record.settings.get("optim.lr", sweep.base.optim.lr)),
            ended=record.state,
        )
        for record in records
        if record.epochs
    ]
    if not curves:
        return [], {}
    drawn = [
        figures.plot_trials(folder / "trials.png", curves, sweep.metric),
        figures.plot_cost(folder / "cost.png", curves, sweep.metric, unit),
    ]
    if "optim.lr" in sweep.space:
        drawn.append(figures.plot_over_lr(folder / "lr.png", curves, sweep.metric, sweep.mode))
    shares = importance(records, sweep)
    if shares:
        title = f"what explains {sweep.metric} (Optuna's fANOVA, {counted(len(curves), 'trial')})"
        percent = {name: 100 * share for name, share in shares.items()}
        drawn.append(
            figures.plot_bars(folder / "importance.png", percent, title, "share of variance, %")
        )
    return drawn, shares


def _group(record: TrialRecord, sweep: Sweep) -> str:
    segments = record.settings.get("data.num_segments", sweep.base.data.num_segments)
    return counted(segments, "segment")


def check_state(path: Path, identity: dict[str, Any], name: str) -> bool:
    """Whether this continues the sweep in the folder; a new sweep's identity is written to ``path``.

    Raises ``UserError`` if the folder contains another sweep.
    """
    text = json.dumps(identity, indent=1, sort_keys=True)
    if not path.exists():
        write_bytes(str(path), text.encode())
        return False
    try:
        before, now = json.loads(path.read_text()), json.loads(text)
    except ValueError as error:  # an older version may have been killed while it wrote the file
        raise UserError(
            f"{path} is damaged ({error}): remove it, and the same command continues the sweep"
        ) from error
    if "base" in before and "base" in now:  # it may be of an older version with fewer settings
        older = Config.from_dict(before["base"])
        before["base"] = json.loads(json.dumps(older.to_dict()))
    changed = sorted(key for key in before | now if before.get(key) != now.get(key))
    if changed:
        raise UserError(
            f"sweep {name!r} exists with another {', '.join(changed)} in {path.parent}: "
            "give this one another name, or set them back to continue it"
        )
    return True
