"""The moving average follows a network as PyTorch's own does, and sends nothing to the device."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from stm.train.average import MovingAverage


def moved(network):
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.add_(
                torch.randn(tensor.shape).to(tensor.dtype) if tensor.is_floating_point() else 1
            )


def test_weights_and_statistics_follow_as_pytorchs_average_does():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours = MovingAverage(network, 0.9)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for _ in range(5):
        moved(network)
        ours.update(network)
        theirs.update_parameters(network)
    assert ours.num_updates == int(theirs.n_averaged) == 5
    expected = theirs.module.state_dict()
    for name, tensor in ours.module.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name])
        else:  # a count has no average
            assert tensor == network.state_dict()[name]
    assert not any(weight.requires_grad for weight in ours.module.parameters())


def test_an_update_makes_no_tensor_that_would_have_to_be_sent():
    seen = []

    class Conversions(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "_to_copy" in str(func) or "local_scalar" in str(func):
                seen.append(str(func))
            return func(*args, **(kwargs or {}))

    network = nn.Linear(3, 2)
    average = MovingAverage(network, 0.9)
    with Conversions():
        average.update(network)
        average.update(network)
    assert seen == []
