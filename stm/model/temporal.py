"""Mixing along time: the channel-wise and the ordinary temporal convolution, and TSM's shift.

The frames of a batch lie one after another in the batch axis: ``frames: [N*T, C, H, W]``. In
channels-last memory that is, byte for byte, ``[N, T, H, W, C]``, so the time axis is reached by a
view and nothing is permuted:

    frames [N*T, C, H, W]  =  [N, T, H*W, C] in memory  =  an image [N, C, T, H*W] in channels-last

On that image a temporal convolution is a 2-D convolution with a 3x1 kernel, which is what PyTorch
has its fastest depthwise kernels for. Forward and backward through all 16 blocks of depth 50 (two
clips of 8 frames, 224 px, float32, one thread of an AVX-512 CPU) take 85 ms; the sum of three slices
takes 200 ms, permutes around a Conv1d 640 ms, and a Conv3d on the same view 1100 ms.

On a GPU the channel-wise convolution is a Triton kernel where ``stm.model.kernels`` says so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stm.model import kernels

TEMPORAL_KERNEL_SIZE = 3
SHIFT_DIVISOR = 8


def split_time(frames: Tensor, num_frames: int) -> Tensor:
    """View ``frames: [N*T, C, H, W]`` as ``[N, T, H, W, C]``; a copy unless channels-last."""
    batch, channels, height, width = frames.shape
    nhwc = frames.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return nhwc.view(batch // num_frames, num_frames, height, width, channels)


def join_time(clips: Tensor) -> Tensor:
    """The way back: view contiguous ``[N, T, H, W, C]`` as channels-last ``[N*T, C, H, W]``."""
    return clips.flatten(0, 1).permute(0, 3, 1, 2)


def temporal_conv(frames: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """Convolve along time on every pixel, with zeros before the first and after the last frame.

    Args:
        frames: float ``[N*T, C, H, W]``, the T frames of a clip in a row.
        weight: float ``[C, 1, 3, 1]`` (channel-wise) or ``[C, C, 3, 1]`` (ordinary), taps for
            frames t-1, t, t+1.
        num_frames: T.

    Returns:
        float ``[N*T, C, H, W]``, channels-last.
    """
    is_channelwise = weight.shape[1] == 1
    if is_channelwise and kernels.takes_kernel(frames):
        clips = split_time(frames, num_frames)
        return join_time(kernels.channelwise_temporal_conv(clips, weight))
    return plain_temporal_conv(frames, weight, num_frames)


def plain_temporal_conv(frames: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """``temporal_conv`` by PyTorch's convolution, on any device."""
    clips = split_time(frames, num_frames)
    groups = frames.shape[1] // weight.shape[1]
    image = clips.flatten(2, 3).permute(0, 3, 1, 2)
    mixed = F.conv2d(image, weight, padding=(1, 0), groups=groups)
    return join_time(mixed.permute(0, 2, 3, 1).reshape(clips.shape))


class ChannelwiseTemporalConv(nn.Module):
    """Channel-wise temporal convolution (paper, section 3.1, equation 1).

        G[n, t, c] = sum_i K[c, i] * F[n, t + i, c],   i in {-1, 0, 1}

    One kernel of three taps for each channel; no bias, and neither normalisation nor activation
    after it. It starts as a shift: the first quarter of the channels looks at t-1 ([1, 0, 0]), the
    last at t+1 ([0, 0, 1]), the half between at t ([0, 1, 0]); all of it learns.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            shift_kernels(channels).view(channels, 1, TEMPORAL_KERNEL_SIZE, 1)
        )

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """``frames: [N*T, C, H, W]`` -> the same shape, channels-last."""
        return temporal_conv(frames, self.weight, num_frames)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, groups={self.weight.shape[0]}"


class OrdinaryTemporalConv(nn.Module):
    """Ordinary temporal convolution, which also mixes channels (the paper's ablation).

        G[n, t, c] = sum_{j, i} K[c, j, i] * F[n, t + i, j]

    The paper is silent about its initial weights. It starts as the same function as the
    channel-wise one (the channel-wise kernels on the diagonal, zeros elsewhere), so that the
    ImageNet features survive the first step.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        weight = torch.zeros(channels, channels, TEMPORAL_KERNEL_SIZE, 1)
        diagonal = torch.arange(channels)
        weight[diagonal, diagonal, :, 0] = shift_kernels(channels)
        self.weight = nn.Parameter(weight)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """``frames: [N*T, C, H, W]`` -> the same shape, channels-last."""
        return temporal_conv(frames, self.weight, num_frames)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, groups=1"


def shift_kernels(channels: int) -> Tensor:
    """What a temporal convolution starts from: float ``[channels, 3]``, a row for each channel."""
    quarter = channels // 4
    kernels = torch.zeros(channels, TEMPORAL_KERNEL_SIZE)
    kernels[:quarter, 0] = 1.0
    kernels[quarter : channels - quarter, 1] = 1.0
    kernels[channels - quarter :, 2] = 1.0
    return kernels


def temporal_shift(frames: Tensor, num_frames: int) -> Tensor:
    """TSM's shift (Lin et al., ICCV 2019): an eighth of the channels takes t+1, the next t-1.

    ``frames: [N*T, C, H, W]`` -> the same shape, channels-last. The other channels stay; beyond
    either end of the clip there are zeros.
    """
    return join_time(_Shift.apply(split_time(frames, num_frames)))


class _Shift(torch.autograd.Function):
    """A shift, and its transpose: the shift the other way. Autograd would copy for each slice."""

    @staticmethod
    def forward(ctx: Any, clips: Tensor) -> Tensor:
        fold = clips.shape[-1] // SHIFT_DIVISOR
        return _shifted(clips, from_next=slice(0, fold), from_previous=slice(fold, 2 * fold))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        fold = gradient.shape[-1] // SHIFT_DIVISOR
        return _shifted(gradient, from_next=slice(fold, 2 * fold), from_previous=slice(0, fold))


def _shifted(clips: Tensor, *, from_next: slice, from_previous: slice) -> Tensor:
    """Written as a whole, since ONNX knows no assignment to a part."""
    following = F.pad(clips[:, 1:, ..., from_next], (0, 0, 0, 0, 0, 0, 0, 1))
    preceding = F.pad(clips[:, :-1, ..., from_previous], (0, 0, 0, 0, 0, 0, 1, 0))
    first = [following, preceding] if from_next.start == 0 else [preceding, following]
    rest = clips[..., max(from_next.stop, from_previous.stop) :]
    return torch.cat([*first, rest], dim=-1)
