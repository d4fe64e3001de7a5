"""Prometheus gauges of a run, exported as ``ray_NAME`` on Ray's metrics endpoint on the driver's node."""

from __future__ import annotations

from typing import Any

from stm.log import get_logger
from stm.train.events import EpochEnded, Event, Started, Stepped

logger = get_logger(__name__)

NAMES = {
    "stm_train_workers": "Workers of the run",
    "stm_train_starts": "How often the workers were started",
    "stm_train_step": "Steps taken",
    "stm_train_epochs": "Epochs done",
    "stm_train_loss": "Mean loss of the steps since the last value",
    "stm_train_learning_rate": "Learning rate of the last step",
    "stm_train_clips_per_s": "Clips trained on in a second, by all ranks",
    "stm_train_data_wait_share": "Share of the time, 0 to 1, that rank 0 waited for clips",
    "stm_train_unreadable_videos": "Videos that could not be read in this epoch",
    "stm_train_gpu_memory_bytes": "The most that rank 0 had allocated on its GPU",
    "stm_train_val_loss": "Loss of the last validation",
    "stm_train_val_top1": "Top-1 accuracy, 0 to 1, of the last validation",
    "stm_train_val_top5": "Top-5 accuracy, 0 to 1, of the last validation",
}
"""Names and descriptions of the gauges; each has the tag ``run``."""


class Gauges:
    """Sets the gauges of the run ``run`` in the driver's process, which is connected to Ray before the first event.

    If a gauge cannot be set, this is logged once, and training goes on without gauges. Nothing is raised.
    """

    def __init__(self, run: str) -> None:
        self._run, self._starts = run, 0
        self._made: dict[str, Any] | None = {}

    def see(self, event: Event) -> None:
        if isinstance(event, Started):
            self._starts += 1
            self._set(workers=event.world_size, starts=self._starts, step=event.step)
        elif isinstance(event, Stepped):
            self._set(
                step=event.step,
                loss=event.mean_loss,
                learning_rate=event.lr,
                clips_per_s=event.clips_per_s,
                data_wait_share=event.wait_share,
                unreadable_videos=event.unreadable,
                gpu_memory_bytes=event.memory_bytes,
            )
        elif isinstance(event, EpochEnded):
            self._set(epochs=event.epoch)
            self.validated(event.metrics)

    def validated(self, metrics: dict[str, float]) -> None:
        """Set the gauges of a validation: val_loss, val_top1 and val_top5 out of ``metrics``."""
        shown = ("val_loss", "val_top1", "val_top5")
        self._set(**{key: metrics[key] for key in shown if key in metrics})

    def _set(self, **values: float) -> None:
        if self._made is None:
            return
        from ray.util.metrics import Gauge

        try:
            for key, value in values.items():
                name = f"stm_train_{key}"
                if name not in self._made:
                    gauge = Gauge(name, NAMES[name], ("run",))
                    self._made[name] = gauge.set_default_tags({"run": self._run})
                self._made[name].set(float(value))
        except Exception as error:
            self._made = None
            logger.warning(
                f"Prometheus gets no more figures of this run: {type(error).__name__}: {error}"
            )
