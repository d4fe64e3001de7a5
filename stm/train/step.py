"""The work of a training step on its device: select usable rows, split the batch, compute gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from stm.model.inputs import Autocast
from stm.train.optim import weighted_loss_sum


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, on its device."""

    clips_NTCHW: torch.Tensor
    labels_N: torch.Tensor
    weights_N: torch.Tensor
    """float32, 0 for padding and unreadable videos."""
    partners_N: torch.Tensor | None = None
    """Labels of the clips mixed in (``stm.train.mixing``)."""
    shares_N: torch.Tensor | None = None
    """float32: the share of the own label in each target; None without ``partners_N``."""

    def parts(self, number: int) -> list[Batch]:
        """Split the batch into ``number`` parts of nearly equal size."""
        fields = (self.clips_NTCHW, self.labels_N, self.weights_N, self.partners_N, self.shares_N)
        cut = [
            [None] * number if values is None else values.tensor_split(number) for values in fields
        ]
        return [Batch(*part) for part in zip(*cut, strict=True)]


def gradients(
    model: Any,
    batch: Batch,
    global_weight: torch.Tensor,
    *,
    summed: dist.Work | None = None,
    world_size: int = 1,
    accumulate: int = 1,
    loss: Callable[..., torch.Tensor] = weighted_loss_sum,
    autocast: Autocast | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> torch.Tensor:
    """Backpropagate the loss of a batch; each rank gets the gradient of the *global* mean loss.

    The loss is a sum over sample weights divided by ``global_weight``, the weight of all ranks' batches (0-dim). DDP
    averages gradients over ranks, hence the factor ``world_size``. ``summed`` is the all-reduce of ``global_weight``,
    if it still runs: the forward pass overlaps with it, and the loss waits for it. ``accumulate`` splits the batch into
    that many parts; ranks exchange gradients once.

    ``loss`` is `weighted_loss_sum` with its settings. Returns float64 [3] of this rank: loss sum, weight, and weight of
    the correct predictions.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=batch.labels_N.device)
    parts = batch.parts(accumulate)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        alone = contextlib.nullcontext() if last or world_size == 1 else model.no_sync()
        with alone:
            with autocast.context() if autocast else contextlib.nullcontext():
                logits_NK = model(part.clips_NTCHW)
            loss_sum = _loss_sum(logits_NK, part, loss)
            if summed is not None and number == 0:
                summed.wait()
            mean = loss_sum * (world_size / global_weight.clamp(min=1))
            (scaler.scale(mean) if scaler else mean).backward()
        with torch.no_grad():
            correct = ((logits_NK.argmax(1) == part.labels_N) * part.weights_N).sum()
            sums += torch.stack([loss_sum.detach(), part.weights_N.sum(), correct]).double()
    return sums


def _loss_sum(
    logits_NK: torch.Tensor, batch: Batch, loss: Callable[..., torch.Tensor]
) -> torch.Tensor:
    if batch.partners_N is None or batch.shares_N is None:
        return loss(logits_NK, batch.labels_N, batch.weights_N)
    own_N, other_N = batch.weights_N * batch.shares_N, batch.weights_N * (1 - batch.shares_N)
    return loss(logits_NK, batch.labels_N, own_N) + loss(logits_NK, batch.partners_N, other_N)


def usable_rows(weights: np.ndarray) -> np.ndarray | None:
    """Return which row of the batch to feed in place of each row: itself, or for weight 0 a row of positive weight.

    Batch normalisation uses every row whatever its weight, so blank clips would shift its statistics. Returns int64
    [B], or None if all weights are 0.
    """
    valid = np.flatnonzero(weights > 0)
    if not len(valid):
        return None
    rows = np.arange(len(weights))
    missing = np.flatnonzero(weights <= 0)
    rows[missing] = valid[np.arange(len(missing)) % len(valid)]
    return rows
