"""Layers that mix frames: CSTM's temporal convolution (paper, section 3.1), the ordinary one, and TSM's shift.

On a GPU the channel-wise convolution can run as a Triton kernel (``stm.model.kernels``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from stm.model import kernels
from stm.model.time_axis import join_time, plain_temporal_conv, split_time

SHIFT_DIVISOR = 8


def temporal_conv(frames: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """Convolve each pixel along time, with zeros before the first frame and after the last.

    Args:
        frames: float ``[N*T, C, H, W]``; the T frames of a clip are consecutive.
        weight: float ``[C, 1, K, 1]`` (channel-wise) or ``[C, C, K, 1]`` (ordinary): taps for the K
            frames around t, such as t-1, t and t+1.
        num_frames: T.

    Returns:
        float ``[N*T, C, H, W]``, channels-last.
    """
    if weight.shape[1:] == (1, 3, 1) and kernels.takes_kernel(frames):
        clips = split_time(frames, num_frames)
        return join_time(kernels.channelwise_temporal_conv(clips, weight))
    return plain_temporal_conv(frames, weight, num_frames)


class ChannelwiseTemporalConv(nn.Module):
    """Channel-wise temporal convolution (paper, section 3.1, equation 1).

        G[n, t, c] = sum_i K[c, i] * F[n, t + i, c],   i in {-1, 0, 1}

    Each channel has one kernel, of three taps in the paper. There is no bias, and no normalisation or activation
    follows. The initial weights make a shift: [1, 0, 0] (frame t-1) in the first quarter of the channels, [0, 0, 1]
    (frame t+1) in the last quarter, and [0, 1, 0] (frame t) in the half between. All weights are trained.

    Args:
        channels: C.
        kernel_size: number of taps, odd and at least 3.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(shift_kernels(channels, kernel_size)[:, None, :, None])

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """``frames: float [N*T, C, H, W]`` -> the same shape, channels-last."""
        return temporal_conv(frames, self.weight, num_frames)

    def extra_repr(self) -> str:
        channels, _, kernel_size, _ = self.weight.shape
        return f"{channels}, kernel_size={kernel_size}, groups={channels}"


class OrdinaryTemporalConv(nn.Module):
    """Ordinary temporal convolution, which also mixes channels (the paper's ablation of CSTM).

        G[n, t, c] = sum_{j, i} K[c, j, i] * F[n, t + i, j],   i in {-1, 0, 1}

    The paper does not give its initial weights. Here it starts as the same function as the
    channel-wise convolution (those kernels on the diagonal, zeros elsewhere), so that training
    starts from the ImageNet features.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        weight = torch.zeros(channels, channels, kernel_size, 1)
        diagonal = torch.arange(channels)
        weight[diagonal, diagonal, :, 0] = shift_kernels(channels, kernel_size)
        self.weight = nn.Parameter(weight)

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """``frames: float [N*T, C, H, W]`` -> the same shape, channels-last."""
        return temporal_conv(frames, self.weight, num_frames)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, kernel_size={self.weight.shape[2]}, groups=1"


def shift_kernels(channels: int, kernel_size: int = 3) -> Tensor:
    """Initial kernels of a temporal convolution: float32 ``[channels, kernel_size]``, a row for each channel."""
    quarter, now = channels // 4, kernel_size // 2
    taps = torch.zeros(channels, kernel_size)
    taps[:quarter, now - 1] = 1.0
    taps[quarter : channels - quarter, now] = 1.0
    taps[channels - quarter :, now + 1] = 1.0
    return taps


class TemporalShift(nn.Module):
    """``temporal_shift`` as a layer."""

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """``frames: float [N*T, C, H, W]`` -> the same shape, channels-last."""
        return temporal_shift(frames, num_frames)


def temporal_shift(frames: Tensor, num_frames: int) -> Tensor:
    """Shift channels along time as TSM does (Lin et al., ICCV 2019).

    ``frames: float [N*T, C, H, W]`` -> the same shape, channels-last. The first eighth of the
    channels takes its values from frame t+1, the second eighth from t-1, and the others stay.
    Zeros stand for the frames beyond the ends of the clip.
    """
    return join_time(_Shift.apply(split_time(frames, num_frames)))


class _Shift(torch.autograd.Function):
    """The shift with its own gradient, a shift the other way. Autograd would make a copy for each slice."""

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
    """Build the output by concatenation, because ONNX has no assignment to a slice."""
    following = F.pad(clips[:, 1:, ..., from_next], (0, 0, 0, 0, 0, 0, 0, 1))
    preceding = F.pad(clips[:, :-1, ..., from_previous], (0, 0, 0, 0, 0, 0, 1, 0))
    first = [following, preceding] if from_next.start == 0 else [preceding, following]
    rest = clips[..., max(from_next.stop, from_previous.stop) :]
    return torch.cat([*first, rest], dim=-1)
