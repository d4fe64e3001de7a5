"""The time axis of a batch of frames: reached by a view, and what mixes along it in PyTorch's own operators.

The frames of a batch lie one after another in the batch axis: ``frames: [N*T, C, H, W]``. In channels-last memory that
is, byte for byte, ``[N, T, H, W, C]``, so the time axis is reached by a view and nothing is permuted:

    frames [N*T, C, H, W]  =  [N, T, H*W, C] in memory  =  an image [N, C, T, H*W] in channels-last

On that image a temporal convolution is a 2-D convolution with a Kx1 kernel, which is what PyTorch has its fastest
depthwise kernels for. Forward and backward through all 16 blocks of depth 50 (two clips of 8 frames, 224 px, float32,
one thread of an AVX-512 CPU) take 85 ms; the sum of three slices takes 200 ms, permutes around a Conv1d 640 ms, and a
Conv3d on the same view 1100 ms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def split_time(frames: Tensor, num_frames: int) -> Tensor:
    """View ``frames: [N*T, C, H, W]`` as ``[N, T, H, W, C]``; a copy unless channels-last."""
    batch, channels, height, width = frames.shape
    nhwc = frames.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return nhwc.view(batch // num_frames, num_frames, height, width, channels)


def join_time(clips: Tensor) -> Tensor:
    """The way back: view contiguous ``[N, T, H, W, C]`` as channels-last ``[N*T, C, H, W]``."""
    return clips.flatten(0, 1).permute(0, 3, 1, 2)


def plain_temporal_conv(frames: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """``stm.model.temporal.temporal_conv`` by PyTorch's convolution, on any device."""
    clips = split_time(frames, num_frames)
    groups = frames.shape[1] // weight.shape[1]
    image = clips.flatten(2, 3).permute(0, 3, 1, 2)
    mixed = F.conv2d(image, weight, padding=(weight.shape[2] // 2, 0), groups=groups)
    return join_time(mixed.permute(0, 2, 3, 1).reshape(clips.shape))


def plain_feature_difference(v: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """``stm.model.cmm.feature_difference`` by PyTorch's operators, on any device."""
    # Every frame is convolved, the first for nothing: at C/r channels that is cheaper than cutting it out, for frames
    # 2..T of each clip are not one block of memory.
    convolved = F.conv2d(v, weight, padding=1, groups=len(weight))
    difference = split_time(convolved, num_frames)[:, 1:] - split_time(v, num_frames)[:, :-1]
    last_step = (0, 0, 0, 0, 0, 0, 0, 1)
    return join_time(F.pad(difference, last_step))
