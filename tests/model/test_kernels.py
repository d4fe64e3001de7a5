"""The Triton kernels against PyTorch's operators: on a GPU where there is one, else by Triton's interpreter.

A CPU build of PyTorch brings no Triton, and its tests are skipped then. ``pip install triton`` and::

    TRITON_INTERPRET=1 python -m pytest tests/model/test_kernels.py
"""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stm.model import build_model, kernels
from stm.model.time_axis import (
    join_time,
    plain_feature_difference,
    plain_temporal_conv,
    split_time,
)

pytest.importorskip("triton", reason="Triton is not installed")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("no GPU, and TRITON_INTERPRET is not 1", allow_module_level=True)

from stm.model.kernels import check
from stm.model.kernels.motion import feature_difference
from stm.model.kernels.temporal import channelwise_temporal_conv

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONVOLUTION = (channelwise_temporal_conv, plain_temporal_conv, (3, 1))
DIFFERENCE = (feature_difference, plain_feature_difference, (3, 3))
BOTH = pytest.mark.parametrize("pair", [CONVOLUTION, DIFFERENCE], ids=["temporal", "motion"])
SHAPES = [
    (1, 1, 1, 1, 16),  # [N, T, H, W, C]: one frame of one pixel
    (2, 2, 3, 5, 3),  # channels that are no power of two
    (3, 8, 7, 7, 96),  # channels in more than one tile
    (1, 16, 9, 8, 5),
    (1, 3, 33, 67, 4),  # pixels in more than one tile
]
TYPES = [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]


def make(pair, shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(sum(shape))
    clips = torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_()
    weight = torch.randn(shape[-1], 1, *pair[2], generator=generator)
    return clips, weight.to(DEVICE, dtype).requires_grad_()


def gradients(function, clips, weight, upstream):
    output = function(clips, weight)
    return (output, *torch.autograd.grad(output, (clips, weight), upstream))


def expected(pair, clips, weight, upstream):
    """PyTorch's operators, which are what a CPU takes, in float64."""
    num_frames = clips.shape[1]

    def plain(clips, weight):
        return split_time(pair[1](join_time(clips), weight, num_frames), num_frames)

    exact = [values.detach().double().cpu() for values in (clips, weight, upstream)]
    return gradients(plain, exact[0].requires_grad_(), exact[1].requires_grad_(), exact[2])


def assert_equal(found, wanted, tolerance):
    for name, ours, theirs in zip(("output", "of clips", "of taps"), found, wanted, strict=True):
        difference = (ours.detach().double().cpu() - theirs.detach()).abs().max()
        assert difference <= tolerance * theirs.abs().max().clamp(min=1), name


@BOTH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES, ids=str)
def test_output_and_gradients_are_those_of_pytorchs_operators(pair, shape, dtype, tolerance):
    clips, weight = make(pair, shape, dtype)
    upstream = torch.randn_like(clips)
    found = gradients(pair[0], clips, weight, upstream)
    assert {values.dtype for values in found} == {dtype}
    assert_equal(found, expected(pair, clips, weight, upstream), tolerance)


@BOTH
@settings(max_examples=12)
@given(
    shape=st.tuples(
        st.integers(1, 2),
        st.sampled_from([1, 2, 8, 16]),
        st.integers(1, 9),
        st.integers(1, 9),
        st.sampled_from([1, 3, 4, 16, 65]),
    )
)
def test_they_agree_for_any_shape(pair, shape):
    clips, weight = make(pair, shape, torch.float64)
    upstream = torch.randn_like(clips)
    found = gradients(pair[0], clips, weight, upstream)
    assert_equal(found, expected(pair, clips, weight, upstream), 1e-12)


@BOTH
def test_gradients_are_those_of_the_function(pair):
    clips, weight = make(pair, (1, 3, 2, 2, 3), torch.float64)
    assert torch.autograd.gradcheck(pair[0], (clips, weight))


@BOTH
def test_gradients_are_the_same_bits_every_time(pair):
    clips, weight = make(pair, (3, 8, 7, 7, 96))
    upstream = torch.randn_like(clips)
    once, again = (gradients(pair[0], clips, weight, upstream) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@BOTH
def test_float32_weights_mix_frames_of_half_the_size_as_autocast_makes_them(pair):
    clips, weight = make(pair, (2, 4, 3, 3, 16))
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        output = pair[0](clips, weight)
    output.float().sum().backward()
    assert output.dtype == torch.bfloat16
    assert weight.grad.dtype == clips.grad.dtype == torch.float32


@BOTH
def test_clips_and_gradients_that_lie_elsewhere_in_memory_are_taken_too(pair):
    clips, weight = make(pair, (2, 3, 4, 5, 6))
    upstream = torch.randn_like(clips)
    scattered = clips.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    found = gradients(
        pair[0],
        scattered,
        weight,
        upstream.flip(4).flip(4).as_strided_(upstream.shape, upstream.stride()),
    )
    assert found[0].is_contiguous()
    assert_equal(found, expected(pair, clips, weight, upstream), 1e-5)
    one = torch.ones((), device=DEVICE).expand(clips.shape)
    assert_equal(gradients(pair[0], clips, weight, one), expected(pair, clips, weight, one), 1e-5)


@BOTH
def test_no_clips_have_no_output_and_taps_no_gradient(pair):
    clips, weight = make(pair, (0, 4, 3, 3, 8))
    output, of_clips, of_weight = gradients(pair[0], clips, weight, torch.empty_like(clips))
    assert output.shape == of_clips.shape == clips.shape
    assert not of_weight.any()


def test_the_last_step_has_no_motion_even_where_a_tap_is_not_finite():
    clips, weight = make(DIFFERENCE, (1, 2, 3, 3, 2))
    weight.data[0] = torch.inf
    output = feature_difference(clips, weight)
    assert not output[:, -1].any()
    assert output[:, 0, ..., 1].isfinite().all()


@BOTH
def test_pytorch_finds_nothing_wrong_with_the_operators(pair):
    clips, weight = make(pair, (2, 3, 4, 4, 5))
    name = "temporal_conv" if pair is CONVOLUTION else "feature_difference"
    torch.library.opcheck(getattr(torch.ops.stm, name).default, (clips, weight))
    upstream = torch.randn_like(clips)
    backward = getattr(torch.ops.stm, f"{name}_backward").default
    exact = [values.detach() for values in (upstream, clips, weight)]
    torch.library.opcheck(backward, tuple(exact))


@pytest.fixture
def forced(monkeypatch):
    """The network as under STM_TRITON=1."""
    monkeypatch.setattr(kernels, "AVAILABLE", True)
    monkeypatch.setattr(kernels, "agrees_with_pytorch", check.agrees_with_pytorch, raising=False)
    monkeypatch.setattr(kernels, "INTERPRETED", DEVICE == "cpu")
    calls = []

    def counted(kernel):
        def call(*arguments):
            calls.append(kernel)
            return kernel(*arguments)

        return call

    for name, kernel in (
        ("channelwise_temporal_conv", channelwise_temporal_conv),
        ("feature_difference", feature_difference),
    ):
        monkeypatch.setattr(kernels, name, counted(kernel), raising=False)
    return calls


def network_and_clips():
    torch.manual_seed(0)
    model = build_model("stm", 26, 7, width=16).to(DEVICE)
    return model, torch.randn(2, 4, 3, 32, 32, device=DEVICE)


def test_the_network_takes_them_where_they_run_and_says_and_learns_the_same(forced, monkeypatch):
    model, clips = network_and_clips()
    model.eval()  # no dropout; BN by running statistics, so that rounding is not amplified

    def logits_and_gradients():
        logits = model(clips)
        return logits, *torch.autograd.grad(logits.square().sum(), model.parameters())

    found = logits_and_gradients()
    assert (forced.count(channelwise_temporal_conv), forced.count(feature_difference)) == (8, 8)
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    for ours, theirs in zip(found, logits_and_gradients(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))
    assert len(forced) == 16


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_network_compiles_into_one_graph_around_them(forced, backend):
    model, clips = network_and_clips()
    model.eval()
    expected = model(clips)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    found = compiled(clips)
    found.sum().backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_network_can_be_exported_with_them(forced):
    model, clips = network_and_clips()
    model.eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (clips,), dynamic_shapes=({0: batch},))
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("stm.temporal_conv" in name for name in names) == 8
    assert sum("stm.feature_difference" in name for name in names) == 8
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips[:1]), model(clips[:1]))


@pytest.fixture
def unasked():
    check.answer.cache_clear()
    yield
    check.answer.cache_clear()


INDEX = 0 if DEVICE == "cuda" else -1


@pytest.mark.parametrize("dtype", kernels.TYPES, ids=str)
def test_the_check_finds_that_they_agree_and_draws_nothing_at_random(unasked, dtype):
    before = torch.get_rng_state()
    with warnings.catch_warnings(), torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16):
        warnings.simplefilter("error")
        assert check.agrees_with_pytorch(INDEX, dtype)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_check_is_a_constant_of_a_compiled_graph(unasked):
    torch._dynamo.reset()

    @torch.compile(backend="eager", fullgraph=True)
    def doubled(values):
        return 2 * values if check.agrees_with_pytorch(INDEX, torch.float32) else values

    assert doubled(torch.ones(1)).item() == 2


def test_a_kernel_that_computes_something_else_is_not_taken(unasked, monkeypatch):
    wrong = lambda clips, weight: feature_difference(clips, weight.flip(3))  # noqa: E731
    monkeypatch.setattr(check, "feature_difference", wrong)
    with pytest.warns(UserWarning, match=r"differ from PyTorch's operators by .*unset STM_TRITON"):
        assert not check.agrees_with_pytorch(INDEX, torch.float32)


@pytest.mark.parametrize("result", [torch.nan, torch.inf])
def test_a_kernel_that_returns_no_number_is_not_taken(unasked, monkeypatch, result):
    monkeypatch.setattr(check, "feature_difference", lambda c, w: result * feature_difference(c, w))
    with pytest.warns(UserWarning, match="differ from PyTorch's operators by inf"):
        assert not check.agrees_with_pytorch(INDEX, torch.float32)


def test_a_kernel_that_cannot_be_compiled_is_not_taken(unasked, monkeypatch):
    def broken(clips, weight):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(check, "channelwise_temporal_conv", broken)
    with pytest.warns(UserWarning, match="do not run .RuntimeError: Failed to find C compiler"):
        assert not check.agrees_with_pytorch(INDEX, torch.bfloat16)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="no GPU")
@BOTH
@pytest.mark.parametrize("shape", [(32, 8, 56, 56, 64), (4, 16, 28, 28, 512)], ids=str)
def test_on_a_gpu_they_agree_at_the_sizes_of_the_network(pair, shape):
    clips, weight = make(pair, shape, torch.bfloat16)
    upstream = torch.randn_like(clips)
    found = gradients(pair[0], clips, weight, upstream)
    assert_equal(found, expected(pair, clips, weight, upstream), 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="no GPU")
def test_on_a_gpu_they_are_taken_when_asked_for(forced):
    frames = torch.randn(8, 16, 14, 14, device=DEVICE)
    assert kernels.takes_kernel(frames)
