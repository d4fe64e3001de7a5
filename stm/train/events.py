"""The events of a run; ``stm.train(config, on_event=...)`` passes them to a function, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time as now
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """Base class of all events."""

    time: float = field(default_factory=now)
    """Seconds since 1970, by the clock of the process in which the event happened."""


@dataclass(frozen=True, kw_only=True)
class Controlled(Event):
    """The first event after each start: ``ray.kill(event.controller)`` ends the run."""

    controller: Any


@dataclass(frozen=True, kw_only=True)
class Dealt(Event):
    """The process that distributes the clips started. If it is killed, the workers fail, also after a restart.
    ``event.board.ask_for_checkpoint.remote()`` asks the workers to save a checkpoint soon."""

    dealer: Any
    board: Any = None


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The workers started or restarted after ``step`` steps."""

    step: int
    epoch: int
    world_size: int


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """Steps were taken since the last event of this kind; ``step`` is the newest."""

    step: int
    epoch: int
    step_in_epoch: int
    steps_per_epoch: int
    loss: float
    """Loss of the last step."""
    mean_loss: float
    """Mean loss of the steps since the last event."""
    lr: float
    clips_per_s: float
    wait_share: float
    """Share of the time that rank 0 waited for clips."""
    first_batch_s: float | None = None
    """Seconds spent waiting for the first batch of an epoch, if it is among these steps."""
    memory_bytes: int = 0
    """The most that rank 0 had allocated on its GPU."""
    unreadable: int = 0
    """Number of training videos of this epoch that could not be read so far."""
    slow: str | None = None
    """Which rank delayed the others, and how."""


@dataclass(frozen=True, kw_only=True)
class EpochEnded(Event):
    """``epoch`` epochs are done."""

    epoch: int
    epochs: int
    failures: list[dict[str, str]] = field(default_factory=list)
    """Training videos that could not be read: path, reason, detail."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """val_top1, val_top5, val_loss, ... if the epoch was validated in the training stream."""


@dataclass(frozen=True, kw_only=True)
class Kept(Event):
    """A checkpoint was written."""

    path: str
    step: int
    history: list[dict[str, Any]]
    """The steps and epochs in the checkpoint, for the record."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """A rank failed; the run goes on from its last checkpoint if restarts are left."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Logged(Event):
    """A process of the run logged a line."""

    message: str
    level: int
    logger: str
