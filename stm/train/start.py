"""The weights that a run begins with: the driver finds and checks them, and passes them to the workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from stm import tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint.pretrained import Pretrained, begin, find, record
from stm.config import Config
from stm.errors import UserError
from stm.log import get_logger
from stm.redaction import redact
from stm.storage import resolved

if TYPE_CHECKING:
    import torch

    from stm.train.job import Job

logger = get_logger(__name__)


@dataclass(frozen=True)
class Start:
    """What a run begins with."""

    weights: Pretrained
    record: dict[str, Any]
    """Plain values for checkpoints; the key ``summary`` is a one-line description."""


def start_of(config: Config, classes: Sequence[str]) -> Start | None:
    """Find the weights that `--model.pretrained` names and check that they fit the network; None if it is not set.

    Raises ``UserError`` if they do not exist or do not fit.
    """
    if config.model.pretrained is None:
        return None
    from stm.model import build_model

    model = build_model(**checkpoints.model_arguments(config), num_classes=len(classes))
    try:
        found = find(config.model.pretrained, config.model.depth, _registry(config))
        report = begin(model, found, classes=classes, num_segments=config.data.num_segments)
    except (ValueError, OSError) as error:
        said = str(error).replace("--tracking ", "--tracking.uri ")
        option = "--model.pretrained"
        raise UserError(said if said.startswith(option) else f"{option}: {said}") from error
    return Start(found, record(found, report))


def as_begun(config: Config, meta: checkpoints.Meta) -> Config:
    """Return the config of a continued run, with the weights it began with; warn if `--model.pretrained` differs."""
    began, named = meta.config["model"].get("pretrained"), config.model.pretrained
    if named is not None and redact(named) != began:
        logger.warning(
            f"--model.pretrained {redact(named)} has no effect: the run goes on from its own checkpoint, and began "
            f"with {began or 'random weights'}. Another --train.name begins anew"
        )
    return replace(config, model=replace(config.model, pretrained=began))


def _registry(config: Config) -> str | None:
    """Return the model registry of the run's own record, or None if there is none."""
    try:
        return tracking.tracking_uri(config.tracking, resolved(config.train.storage))
    except UserError:  # only a registered model needs one
        return None


def in_worker(job: Job) -> Callable[[torch.nn.Module], Any] | None:
    """Return the function that loads the weights on a rank without a checkpoint; None for random weights."""
    if job.config.model.pretrained is None:
        return None
    if job.weights is None:
        from stm.train.job import StopRun

        raise StopRun(
            "there is no whole checkpoint left, and the run did not begin just now: the same command begins it anew"
        )
    import ray

    return partial(begin, found=ray.get(job.weights), classes=job.classes)
