"""CMM against a loop over clips and time steps."""

from __future__ import annotations

import pytest
import torch

from stm.model.cmm import CMM
from tests.model import reference


def make(stride: int = 1) -> CMM:
    torch.manual_seed(0)
    module = CMM(32, stride, reduction=8)
    reference.randomise(module)
    return module.eval()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("num_frames", [1, 2, 5])
@pytest.mark.parametrize("size", [6, 7])
def test_cmm_equals_a_loop_over_time(stride, num_frames, size):
    module = make(stride)
    u = torch.randn(2 * num_frames, 32, size, size)
    state = {f"cmm.{key}": value for key, value in module.state_dict().items()}
    expected = reference.cmm(state, "cmm", u, num_frames, stride)
    torch.testing.assert_close(module(u, num_frames), expected)


def test_the_last_step_is_exactly_zero_and_the_others_are_not():
    output = make()(torch.randn(8, 32, 5, 5), 4).reshape(2, 4, -1)
    assert not output[:, -1].any()
    assert output[:, :-1].abs().amax(dim=-1).all()


def test_its_convolution_is_depthwise_and_nothing_follows_the_expansion():
    module = make(stride=2)
    assert module.motion.weight.shape == (4, 1, 3, 3)
    assert [name for name, _ in module.named_children()] == [
        "reduce",
        "bn",
        "motion",
        "expand",
        "pool",
    ]
    assert all(layer.bias is None for layer in (module.reduce, module.motion, module.expand))
    assert module(torch.randn(8, 32, 6, 6), 4).min() < 0


def test_frame_t_is_subtracted_as_it_is_and_frame_t_plus_1_is_convolved():
    module = make()
    with torch.no_grad():
        module.motion.weight.zero_()
    u = torch.randn(3, 32, 5, 5)
    v = module.bn(module.reduce(u))
    torch.testing.assert_close(module(u, 3)[:2], module.expand(-v[:2]))


def test_its_gradients_are_those_of_the_loop():
    module = make(stride=2).double()
    u = torch.randn(6, 32, 7, 7, dtype=torch.float64, requires_grad=True)
    names, weights = zip(*module.named_parameters(), strict=True)
    state = {f"cmm.{key}": value for key, value in module.state_dict().items()}
    state |= {f"cmm.{key}": value for key, value in zip(names, weights, strict=True)}
    gradient = torch.randn(6, 32, 4, 4, dtype=torch.float64)
    ours = torch.autograd.grad(module(u, 3), (u, *weights), gradient)
    naive = reference.cmm(state, "cmm", u, 3, stride=2)
    torch.testing.assert_close(ours, torch.autograd.grad(naive, (u, *weights), gradient))
