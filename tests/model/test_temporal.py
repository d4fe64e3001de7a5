"""The temporal convolutions and TSM's shift, against permutes and loops."""

from __future__ import annotations

import pytest
import torch

from stm.model.temporal import (
    ChannelwiseTemporalConv,
    OrdinaryTemporalConv,
    join_time,
    split_time,
    temporal_conv,
    temporal_shift,
)
from tests.model import reference

CHANNELS_LAST = torch.channels_last


@pytest.mark.parametrize("num_frames", [1, 2, 8])
@pytest.mark.parametrize("layer", [ChannelwiseTemporalConv, OrdinaryTemporalConv])
def test_temporal_convolution_equals_a_permute_and_a_conv1d(layer, num_frames):
    torch.manual_seed(0)
    temporal = layer(8)
    torch.nn.init.normal_(temporal.weight)
    frames = torch.randn(3 * num_frames, 8, 5, 6)
    expected = reference.temporal_conv(frames, temporal.weight, num_frames)
    for memory_format in (torch.contiguous_format, CHANNELS_LAST):
        mixed = temporal(frames.contiguous(memory_format=memory_format), num_frames)
        torch.testing.assert_close(mixed, expected)
        assert mixed.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("groups", [8, 1])
def test_temporal_convolution_has_the_gradients_of_its_function(groups):
    torch.manual_seed(0)
    frames = torch.randn(6, 8, 2, 3, dtype=torch.float64)
    frames = frames.contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    weight = torch.randn(8, 8 // groups, 3, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: temporal_conv(x, w, 3), (frames, weight))

    gradient = torch.randn(6, 8, 2, 3, dtype=torch.float64)
    ours = torch.autograd.grad(temporal_conv(frames, weight, 3), (frames, weight), gradient)
    naive = reference.temporal_conv(frames, weight, 3)
    torch.testing.assert_close(ours, torch.autograd.grad(naive, (frames, weight), gradient))


def test_time_is_reached_without_a_copy():
    frames = torch.randn(6, 4, 5, 7).contiguous(memory_format=CHANNELS_LAST)
    clips = split_time(frames, 3)
    assert clips.shape == (2, 3, 5, 7, 4)
    assert clips.is_contiguous()
    assert clips.data_ptr() == frames.data_ptr()
    back = join_time(clips)
    assert back.data_ptr() == frames.data_ptr()
    assert back.stride() == frames.stride()


@pytest.mark.parametrize("layer", [ChannelwiseTemporalConv, OrdinaryTemporalConv])
def test_temporal_convolution_copies_neither_its_input_nor_its_output(layer):
    frames = torch.randn(16, 32, 14, 14).contiguous(memory_format=CHANNELS_LAST)
    temporal = layer(32)
    with torch.no_grad(), torch.profiler.profile(record_shapes=True) as profile:
        temporal(frames, 8)
    copies = [
        event
        for event in profile.events()
        if event.name in ("aten::copy_", "aten::clone")
        and any(14 in shape for shape in event.input_shapes)
    ]
    assert not copies


@pytest.mark.parametrize("layer", [ChannelwiseTemporalConv, OrdinaryTemporalConv])
def test_it_starts_as_a_shift_of_both_outer_quarters(layer):
    frames = torch.randn(8, 8, 3, 3)
    mixed = layer(8)(frames, 4).reshape(2, 4, 8, 3, 3)
    frames = frames.view(2, 4, 8, 3, 3)
    torch.testing.assert_close(mixed[:, 1:, :2], frames[:, :-1, :2])
    torch.testing.assert_close(mixed[:, :, 2:6], frames[:, :, 2:6])
    torch.testing.assert_close(mixed[:, :-1, 6:], frames[:, 1:, 6:])
    assert not mixed[:, 0, :2].any()
    assert not mixed[:, -1, 6:].any()


def test_channelwise_kernels_are_one_a_channel_and_the_last_quarter_is_not_zero():
    weight = ChannelwiseTemporalConv(64).weight
    assert weight.shape == (64, 1, 3, 1)
    assert weight.requires_grad
    assert weight[:16, 0, :, 0].tolist() == [[1, 0, 0]] * 16
    assert weight[16:48, 0, :, 0].tolist() == [[0, 1, 0]] * 32
    assert weight[48:, 0, :, 0].tolist() == [[0, 0, 1]] * 16


@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_shift_moves_an_eighth_each_way_within_a_clip(num_frames):
    frames = torch.randn(2 * num_frames, 16, 2, 3)
    shifted = temporal_shift(frames, num_frames)
    torch.testing.assert_close(shifted, reference.temporal_shift(frames, num_frames))


def test_shift_has_the_gradients_of_its_function_and_leaves_its_input_alone():
    frames = torch.randn(6, 16, 1, 2, dtype=torch.float64, requires_grad=True)
    before = frames.detach().clone()
    assert torch.autograd.gradcheck(lambda x: temporal_shift(x, 3), (frames,))
    assert torch.equal(frames, before)
