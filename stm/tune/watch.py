"""Receives Ray Tune's callbacks in the driver: writes the reports of trials, and shows the table."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from ray import tune

from stm.log import get_logger
from stm.plural import counted
from stm.tune.results import REPORTS, append, read_reports, table_rows
from stm.tune.settings import Sweep

logger = get_logger(__name__)


class Watch(tune.Callback):
    """A callback of Ray Tune. Its state is in the file of reports, so it can be pickled and recreated."""

    def __init__(self, folder: Path, sweep: Sweep, epochs: int, cost_unit: str) -> None:
        self._folder, self._sweep, self._epochs = folder, sweep, epochs
        self._unit = cost_unit
        self._live: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_live": None}

    # ------------------------------------------------------------------ callbacks

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        drawn = trial.config
        settings = {name: domain.value(drawn[name]) for name, domain in self._sweep.space.items()}
        self._note("start", trial, settings=settings)
        self._log(trial, ", ".join(f"{name} {value}" for name, value in settings.items()))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("failed"):
            self._end(trial, "failed", str(result["failed"]))
            return
        metrics = {
            key: value
            for key, value in result.items()
            if key in ("epoch", "clips", "cost") or key.startswith("val_")
        }
        self._note("epoch", trial, metrics=metrics)
        value = metrics[self._sweep.metric]
        self._log(
            trial,
            f"epoch {metrics['epoch']}/{self._epochs}  {self._sweep.metric} {value:.4f}  "
            f"{metrics['cost']:.0f} {self._unit}",
        )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        result = trial.last_result or {}
        if result.get("failed"):
            return
        if result.get("epoch", 0) >= self._epochs:
            self._end(trial, "finished", f"all {counted(self._epochs, 'epoch')}")
        else:
            why = f"by {self._sweep.scheduler.name}, after epoch {result.get('epoch')} of {self._epochs}"
            self._end(trial, "stopped early", why)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._log(trial, "crashed; it goes on from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial, "failed", last_line(trial))

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        if self._live is not None:  # leave the table on screen, and restore the cursor
            self._live.stop()
            self._live = None

    # ------------------------------------------------------------------ reports and table

    def _end(self, trial: Any, state: str, why: str) -> None:
        self._note("end", trial, state=state, why=why)
        self._log(trial, f"{state}: {why}")

    def _note(self, kind: str, trial: Any, **values: Any) -> None:
        append(self._folder / REPORTS, kind=kind, trial=trial.trial_id, **values)

    def _log(self, trial: Any, what: str) -> None:
        if sys.stderr.isatty() and logger.isEnabledFor(logging.INFO):
            self._redraw()
        else:
            logger.info(f"trial {trial.trial_id}  {what}")

    def _redraw(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table

        if self._live is None:
            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.start()
        header, *rows = table_rows(read_reports(self._folder / REPORTS), self._sweep, self._epochs)
        table = Table(*header, title=f"sweep {self._sweep.name}")
        for row in rows:
            table.add_row(*row)
        self._live.update(table, refresh=True)


def last_line(trial: Any) -> str:
    """Return the last line of the error that ended a trial."""
    try:
        lines = Path(trial.error_file).read_text().strip().splitlines()
    except (OSError, TypeError):
        return "an error that Ray Tune did not keep"
    return lines[-1][:500] if lines else "an error without a message"
