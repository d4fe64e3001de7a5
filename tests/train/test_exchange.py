"""What ranks exchange in a step: weights of their batches, gradients, and no running statistics."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from stm.config import Config
from stm.data.stream.graph import ClipBatch
from stm.train.replica import Replica
from tests.train.ranks import on_ranks


def trained(rank, exchange="float32", broadcast=False, num_steps=4):
    """Losses of this rank, and what a checkpoint would hold, after a few steps of two ranks."""
    config = Config.from_dict(
        {
            "model": {"depth": 26, "width": 16, "dropout": 0.0},
            "data": {"num_segments": 2, "size": 32},
            "optim": {"batch_size": 8},
            "train": {"exchange": exchange},
        }
    )
    torch.manual_seed(0)
    replica = Replica(config, 5, torch.device("cpu"), 2, None)
    if broadcast:  # as PyTorch does it unless told otherwise
        replica._model = nn.parallel.DistributedDataParallel(
            replica._module, gradient_as_bucket_view=True
        )
    losses = [torch.zeros(3, dtype=torch.float64)]
    for step in range(num_steps):
        drawn = np.random.default_rng([step, rank])
        clips = drawn.integers(0, 256, (4, 1, 2, 32, 32, 3), dtype=np.uint8)
        weights = np.ones(4, np.float32)
        weights[0] = step != 2
        if step == 3 and rank == 1:
            weights[:] = 0  # nothing to learn from here
        labels = drawn.integers(0, 5, 4)
        batch = ClipBatch(clips, labels, weights, np.arange(4), 0, 8)
        losses.append(replica.step(batch, 0.01, seed=step)[0])
    return torch.stack(losses), {
        name: t.clone() for name, t in replica.shipped.state_dict().items()
    }


def statistics_at_home(rank, folder):
    ours, theirs = trained(rank), trained(rank, broadcast=True)
    assert torch.equal(ours[0], theirs[0])
    parameters = [name for name, t in ours[1].items() if "running" not in name and t.ndim]
    for name in ours[1] if rank == 0 else parameters:
        assert torch.equal(ours[1][name], theirs[1][name]), name
    torch.save(ours[1], f"{folder}/{rank}.pt")


def test_statistics_stay_at_home_and_change_nothing(tmp_path):
    on_ranks(2, tmp_path, statistics_at_home, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert not torch.equal(first["bn1.running_mean"], second["bn1.running_mean"])
    assert torch.equal(first["fc.weight"], second["fc.weight"])


def halved(rank, folder):
    begun = trained(rank, num_steps=0)[1]["fc.weight"]
    exact = trained(rank, num_steps=1)[1]["fc.weight"]
    rounded = trained(rank, exchange="bfloat16", num_steps=1)[1]["fc.weight"]
    difference, moved = (exact - rounded).abs().max(), (exact - begun).abs().max()
    assert 0 < difference < 2**-7 * moved
    both = [torch.empty_like(rounded) for _ in range(2)]
    dist.all_gather(both, rounded)
    assert torch.equal(*both)


def test_gradients_that_travel_as_bfloat16_are_rounded_alike_on_all_ranks(tmp_path):
    on_ranks(2, tmp_path, halved, str(tmp_path))
