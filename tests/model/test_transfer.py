"""Batches on their way to the device: the same values everywhere, and no waiting on a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stm.config import Config
from stm.data.stream.graph import ClipBatch
from stm.model.inputs import normalise
from stm.model.transfer import Transfer
from stm.train.replica import Replica

CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def arrays(seed, num_clips=4, size=32):
    generator = np.random.default_rng(seed)
    clips = generator.integers(0, 256, (num_clips, 1, 2, size, size, 3), dtype=np.uint8)
    labels = generator.integers(0, 5, num_clips)
    weights = np.ones(num_clips, np.float32)
    for values in (clips, labels, weights):
        values.flags.writeable = False  # as they come from shared memory
    return clips, labels, weights


def check(transfer, seed, rows, num_clips=4):
    clips, labels, weights = arrays(seed, num_clips)
    found = transfer(clips[:, 0], labels, weights, rows=rows)
    shown = clips[:, 0] if rows is None else clips[rows, 0]
    assert torch.equal(found[1].cpu(), torch.from_numpy(labels.copy()))
    assert torch.equal(found[2].cpu(), torch.from_numpy(weights.copy()))
    torch.testing.assert_close(found[0].cpu(), normalise(shown, CPU), rtol=0, atol=1e-6)
    assert found[0].flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rows", [None, np.array([0, 0, 2, 2])], ids=["as they are", "chosen"])
def test_a_cpu_gets_what_is_in_shared_memory(rows):
    transfer = Transfer(CPU)
    for seed in range(3):
        check(transfer, seed, rows)


def test_a_batch_of_its_own_is_handed_out_and_the_next_leaves_it_alone():
    transfer = Transfer(CPU)
    clips, labels, weights = arrays(0)
    first = transfer(clips[:, 0], labels, weights)
    kept = [values.clone() for values in first]
    transfer(*(values[:, 0] if values.ndim > 1 else values for values in arrays(1)))
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))


def test_constants_made_in_inference_serve_training():
    with torch.inference_mode():
        normalise(arrays(0)[0][:, 0], CPU)
    clips = normalise(arrays(0)[0][:, 0], CPU)
    scale = torch.ones((), requires_grad=True)
    (clips * scale).sum().backward()
    assert scale.grad is not None


@pytest.mark.gpu
@on_gpu
def test_a_gpu_gets_what_is_in_shared_memory_while_it_is_busy():
    device = torch.device("cuda", 0)
    transfer, busy = Transfer(device), torch.randn(4096, 4096, device=device)
    given, found = [], []
    for seed in range(8):
        for _ in range(20):
            busy = torch.tanh(busy @ busy)
        clips, labels, weights = arrays(seed)
        given.append((clips, labels))
        found.append(transfer(clips[:, 0], labels, weights))
    for (clips, labels), (there, labels_N, _) in zip(given, found, strict=True):
        torch.testing.assert_close(there.cpu(), normalise(clips[:, 0], CPU), rtol=0, atol=1e-6)
        assert labels_N.tolist() == labels.tolist()
    check(transfer, 9, None, num_clips=3)  # another shape


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_on_a_gpu_waits_for_nothing(precision):
    config = Config.from_dict(
        {
            "model": {"depth": 26, "width": 16},
            "data": {"num_segments": 2, "size": 32},
            "optim": {"batch_size": 4, "clip_grad_norm": 20.0},
            "train": {"precision": precision},
        }
    )
    replica = Replica(config, 5, torch.device("cuda", 0), 1, None)
    batches = []
    for seed in range(6):
        clips, labels, weights = arrays(seed)
        batches.append(ClipBatch(clips, labels, weights, np.arange(4), 0, 4))
    for seed in range(3):  # kernels are compiled, algorithms chosen, slots made
        replica.step(batches[seed], 0.01, seed)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sums = [replica.step(batches[seed], 0.01, seed)[0] for seed in range(3, 6)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(sums).isfinite().all()
