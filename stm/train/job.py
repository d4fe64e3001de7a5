"""What a rank gets from the driver, its place in the run, and the exception that stops the run on all ranks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stm.config import Config
from stm.data.stream.plan import Position, step_of, steps_per_epoch
from stm.model.plugins import Plugin
from stm.train.rarity import ClassTerms


class StopRun(Exception):
    """The run must stop; all ranks raise it. ``rows`` are the training videos concerned."""

    def __init__(self, reason: str, rows: list[int] | None = None) -> None:
        super().__init__(reason)
        self.rows = rows or []


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank gets from the driver."""

    config: Config
    run_directory: str
    lease: str | None = None
    """The driver's lease; without it no checkpoint can be committed."""
    classes: list[str]
    dataset: str
    fingerprint: str
    val_fingerprint: str = ""
    """Fingerprint of the validation manifest, as it was read."""
    val_dataset: str = ""
    num_videos: int
    """Usable rows of the training manifest."""
    class_counts: list[int]
    """Usable rows per class."""
    class_terms: ClassTerms | None = None
    """Class terms of the loss, for rare classes."""
    num_val_videos: int = 0
    """All rows of the validation manifest; the unreadable ones count as wrong."""
    num_val_usable: int = 0
    validates_elsewhere: bool = False
    """Whether the driver validates checkpoints; validation is then not part of the stream."""
    board: Any = None
    """Progress board (an actor), or None."""
    mlflow_run_id: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    weights: Any = None
    """Reference to the weights (`Pretrained`) that a run without a checkpoint begins with; None if it has one."""
    started_from: dict[str, Any] | None = None
    """Description of the weights that the run began with, for checkpoints."""
    plugin: Plugin | None = None
    """Source of the network's blocks, if they are the user's own."""


class Place:
    """The place of a rank in the run: ``position`` in the plan, and ``step``, the steps since the run began."""

    def __init__(self, job: Job, position: Position) -> None:
        self._num_videos, self._batch_size = job.num_videos, job.config.optim.batch_size
        self.position = position
        self.step = step_of(position, self._num_videos, self._batch_size)
        self.steps_per_epoch = steps_per_epoch(self._num_videos, self._batch_size)

    @property
    def next_end(self) -> int:
        """The sample of the epoch at which the next step ends."""
        return min(self.position.offset + self._batch_size, self._num_videos)

    def advance(self, epoch: int, offset_end: int) -> None:
        """Advance by a step, whose batch of ``epoch`` ends at sample ``offset_end``."""
        self.step += 1
        ended = offset_end >= self._num_videos
        self.position = Position(epoch + 1, 0) if ended else Position(epoch, offset_end)
