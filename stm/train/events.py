"""What happens in a run, as the driver learns of it: ``stm.train(config, on_event=...)`` takes these, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import time as now
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something happened."""

    time: float = field(default_factory=now)
    """Seconds since 1970, by the clock of the process where it happened."""


@dataclass(frozen=True, kw_only=True)
class Controlled(Event):
    """The first after each start: ``ray.kill(event.controller)`` ends the run."""

    controller: Any


@dataclass(frozen=True, kw_only=True)
class Dealt(Event):
    """The process that deals out the clips begins. Without it the workers fail, as often as they are started;
    ``event.board.ask_for_checkpoint.remote()`` has them keep a checkpoint at their next step."""

    dealer: Any
    board: Any = None


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The workers begin, or begin again, after ``step`` steps."""

    step: int
    epoch: int
    world_size: int


@dataclass(frozen=True, kw_only=True)
class Stepped(Event):
    """Steps were taken since the last of these; ``step`` is the last of them."""

    step: int
    epoch: int
    step_in_epoch: int
    steps_per_epoch: int
    loss: float
    """Of the last step."""
    mean_loss: float
    """Of the steps since the last event."""
    lr: float
    clips_per_s: float
    wait_share: float
    """Share of the time that rank 0 waited for clips."""
    first_batch_s: float | None = None
    """What the first batch of an epoch was waited for, if it is among these steps."""
    memory_bytes: int = 0
    """The most that rank 0 had allocated on its GPU."""
    unreadable: int = 0
    """Training videos of this epoch that could not be read so far."""
    slow: str | None = None
    """Which rank held the others up, and how."""


@dataclass(frozen=True, kw_only=True)
class EpochEnded(Event):
    """``epoch`` epochs are done."""

    epoch: int
    epochs: int
    failures: list[dict[str, str]] = field(default_factory=list)
    """Training videos that could not be read: path, reason, detail."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """val_top1, val_top5, val_loss, ... where it was validated in the training stream."""


@dataclass(frozen=True, kw_only=True)
class Kept(Event):
    """A checkpoint was written."""

    path: str
    step: int
    history: list[dict[str, Any]]
    """The steps and epochs that it brings with it, for the record."""


@dataclass(frozen=True, kw_only=True)
class Failed(Event):
    """A rank failed; the run goes on from its last checkpoint if it may."""

    message: str


@dataclass(frozen=True, kw_only=True)
class Logged(Event):
    """A process of the run logged a line."""

    message: str
    level: int
    logger: str
