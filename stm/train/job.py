"""What every rank is told, where in the run it stands, and the reason that ends the run for all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stm.config import Config
from stm.data.stream.plan import Position, step_of, steps_per_epoch
from stm.model.plugins import Plugin
from stm.train.rarity import ClassTerms


class StopRun(Exception):
    """Going on makes no sense, and all ranks know it. ``rows`` are the training videos it is about."""

    def __init__(self, reason: str, rows: list[int] | None = None) -> None:
        super().__init__(reason)
        self.rows = rows or []


@dataclass(frozen=True, kw_only=True)
class Job:
    """What the driver tells every rank."""

    config: Config
    run_directory: str
    lease: str | None = None
    """The driver's, without which nothing is committed."""
    classes: list[str]
    dataset: str
    fingerprint: str
    val_fingerprint: str = ""
    """Of the validation manifest, as it was read."""
    val_dataset: str = ""
    num_videos: int
    """Usable rows of the training manifest."""
    class_counts: list[int]
    """How many of them each class has."""
    class_terms: ClassTerms | None = None
    """What the loss does with rare classes."""
    num_val_videos: int = 0
    """All rows of the validation manifest; the unreadable ones count as wrong."""
    num_val_usable: int = 0
    validates_elsewhere: bool = False
    """Validation is not part of the stream: the driver does it from checkpoints."""
    board: Any = None
    """Progress board (an actor), or None."""
    mlflow_run_id: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    weights: Any = None
    """Reference to the weights (`Pretrained`) that a run without a checkpoint begins with; None where it has one."""
    started_from: dict[str, Any] | None = None
    """What checkpoints keep of the weights that the run began with."""
    plugin: Plugin | None = None
    """The source of the network's blocks, where they are the user's own."""


class Place:
    """Where a rank stands: ``position`` in the plan, and ``step``, the steps taken since the run began."""

    def __init__(self, job: Job, position: Position) -> None:
        self._num_videos, self._batch_size = job.num_videos, job.config.optim.batch_size
        self.position = position
        self.step = step_of(position, self._num_videos, self._batch_size)
        self.steps_per_epoch = steps_per_epoch(self._num_videos, self._batch_size)

    @property
    def next_end(self) -> int:
        """The sample of the epoch at which the step that is due ends."""
        return min(self.position.offset + self._batch_size, self._num_videos)

    def advance(self, epoch: int, offset_end: int) -> None:
        """A step was taken, of a batch of ``epoch`` that ends at sample ``offset_end``."""
        self.step += 1
        ended = offset_end >= self._num_videos
        self.position = Position(epoch + 1, 0) if ended else Position(epoch, offset_end)
