"""The Triton kernels against PyTorch's convolution: on a GPU where there is one, else by Triton's interpreter.

A CPU build of PyTorch brings no Triton, and its tests are skipped then. ``pip install triton`` and::

    TRITON_INTERPRET=1 python -m pytest tests/model/test_kernels.py
"""

from __future__ import annotations

import os

import pytest
import torch

from stm.model import build_model, temporal
from stm.model.temporal import join_time, temporal_conv

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

from stm.model import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = [(1, 1, 1, 1, 16), (2, 4, 3, 5, 16), (3, 8, 7, 7, 96), (2, 3, 9, 8, 128)]
"""[N, T, H, W, C]: one frame alone, sizes that fill no tile, channels in more than one tile."""


def make(shape, dtype=torch.float32):
    torch.manual_seed(0)
    clips = torch.randn(shape, dtype=dtype, device=DEVICE, requires_grad=True)
    weight = torch.randn(shape[-1], 1, 3, 1, dtype=dtype, device=DEVICE, requires_grad=True)
    return clips, weight


def plain(clips, weight):
    """PyTorch's convolution, which is what a CPU takes, in float64."""
    double = join_time(clips.detach().double().cpu()).requires_grad_()
    taps = weight.detach().double().cpu().requires_grad_()
    return double, taps, temporal_conv(double, taps, clips.shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)
def test_output_and_gradients_are_those_of_the_convolution(shape, dtype, tolerance):
    clips, weight = make(shape, dtype)
    output = kernels.channelwise_temporal_conv(clips, weight)
    gradient = torch.randn_like(output)
    output.backward(gradient)
    double, taps, expected = plain(clips, weight)
    expected.backward(join_time(gradient.double().cpu()))
    for found, wanted in (
        (join_time(output), expected),
        (join_time(clips.grad), double.grad),
        (weight.grad, taps.grad),
    ):
        assert found.dtype == dtype
        difference = (found.detach().double().cpu() - wanted).abs().max()
        assert difference <= tolerance * wanted.abs().max().clamp(min=1)


def test_gradients_are_those_of_the_function():
    clips, weight = make((1, 3, 1, 1, 16), torch.float64)
    assert torch.autograd.gradcheck(kernels.channelwise_temporal_conv, (clips, weight))


def test_gradients_are_the_same_bits_every_time():
    clips, weight = make((3, 8, 7, 7, 96))
    gradient = torch.randn_like(clips)
    twice = [
        torch.autograd.grad(
            kernels.channelwise_temporal_conv(clips, weight), (clips, weight), gradient
        )
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*twice, strict=True))


def test_float32_weights_mix_frames_of_half_the_size_as_autocast_makes_them():
    clips, weight = make((2, 4, 3, 3, 16))
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        output = kernels.channelwise_temporal_conv(clips, weight)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert weight.grad.dtype == clips.grad.dtype == torch.float32


def test_a_gradient_that_lies_elsewhere_in_memory_is_taken_too():
    clips, weight = make((1, 2, 1, 1, 16))
    output = kernels.channelwise_temporal_conv(clips, weight)
    (found,) = torch.autograd.grad(output.sum(), clips)
    torch.testing.assert_close(
        found[0, 0], (weight[:, 0, 0, 0] + weight[:, 0, 1, 0]).expand(1, 1, 16)
    )


def test_the_network_takes_the_kernel_where_it_runs_and_says_the_same(monkeypatch):
    torch.manual_seed(0)
    model = build_model("stm", 26, 7, width=16).to(DEVICE).eval()
    clips = torch.randn(2, 4, 3, 32, 32, device=DEVICE)
    calls = []
    original = kernels.channelwise_temporal_conv

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(kernels, "channelwise_temporal_conv", counted)
    monkeypatch.setattr(temporal, "kernels", kernels)
    with torch.no_grad():
        monkeypatch.setattr(temporal, "_takes_kernel", lambda frames, weight: False)
        expected = model(clips)
        assert not calls
        monkeypatch.setattr(temporal, "_takes_kernel", lambda frames, weight: True)
        found = model(clips)
    assert len(calls) == 8
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
