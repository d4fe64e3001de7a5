"""Validation inside a training run: every row of the manifest counts once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from stm.data.stream.graph import ClipBatch
from stm.model.inputs import Autocast
from stm.model.transfer import Transfer
from stm.train.optim import weighted_loss_sum


def validate(
    module: nn.Module,
    batches: Iterable[ClipBatch],
    num_videos: int,
    num_usable: int,
    transfer: Transfer,
    autocast: Autocast,
) -> dict[str, float]:
    """Top-1, top-5 and loss over the validation manifest, the same on all ranks.

    ``batches`` may go on after the validation; only the batches of this validation are consumed. An unreadable video
    counts as wrong, so accuracies are shares of ``num_videos``, the rows of the manifest; ``num_usable`` of them are in
    the stream.
    """
    distributed = dist.is_initialized() and dist.get_world_size() > 1
    if distributed:  # running statistics are rank 0's, as in the checkpoint
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
    module.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=transfer.device)
    with torch.no_grad():
        for batch in batches:
            assert batch.validation, "a training batch came in the middle of a validation"
            clips_NTCHW, labels_N, weights_N = transfer(
                batch.clips[:, 0], batch.labels, batch.weights
            )
            with autocast.context():
                logits_NK = module(clips_NTCHW)
            top_N5 = logits_NK.topk(min(5, logits_NK.shape[1]), dim=1).indices
            hits_N5 = (top_N5 == labels_N[:, None]) * weights_N[:, None]
            loss_sum = weighted_loss_sum(logits_NK, labels_N, weights_N)
            sums += torch.stack(
                [hits_N5[:, 0].sum(), hits_N5.sum(), loss_sum, weights_N.sum()]
            ).double()
            if batch.offset_end >= num_usable:
                break
    if distributed:
        dist.all_reduce(sums)
    top1, top5, loss_sum, num_read = sums.tolist()
    return {
        "val_top1": top1 / num_videos,
        "val_top5": top5 / num_videos,
        "val_loss": loss_sum / max(num_read, 1),
        "val_num_videos": float(num_videos),
        "val_unreadable": num_videos - num_read,
    }
