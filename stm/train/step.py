"""What a step does with a batch on its device: rows worth learning from, parts, gradients."""

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
    """float32, 0 where nothing is to be learnt."""
    partners_N: torch.Tensor | None = None
    """Labels of the clips mixed in (``stm.train.mixing``)."""
    shares_N: torch.Tensor | None = None
    """float32: how much of each target is its own label, where there are partners."""

    def parts(self, number: int) -> list[Batch]:
        """The batch in ``number`` parts of nearly equal size."""
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
    """Backpropagate the loss of a batch; on each rank the gradient becomes that of the *global* mean loss.

    The loss is a sum over sample weights divided by ``global_weight``, the weight of all ranks' batches (0-dim). DDP
    averages gradients over ranks, hence the factor ``world_size``. Where ``summed`` is given, ``global_weight`` is
    right only after it: the loss waits for it, and the forward pass runs meanwhile. With ``accumulate`` the batch is
    taken in parts, and ranks exchange gradients once.

    ``loss`` is `weighted_loss_sum` with its settings. Returns float64 [3]: loss sum, weight and number of right answers
    of this rank.
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
    """Which row of the batch each row shows the network: itself, or for weight 0 a copy of one that counts.

    Batch normalisation sees every row, weight or not, so blank clips would shift its statistics. Returns int64 [B],
    or None where no row counts.
    """
    valid = np.flatnonzero(weights > 0)
    if not len(valid):
        return None
    rows = np.arange(len(weights))
    missing = np.flatnonzero(weights <= 0)
    rows[missing] = valid[np.arange(len(missing)) % len(valid)]
    return rows
