"""Views that give a batch of frames a time axis, and equations 1 and 2 in PyTorch's own operators.

A batch holds the frames of its clips one after another: ``frames: [N*T, C, H, W]``. In channels-last memory the same
bytes are ``[N, T, H, W, C]``, so a view gives the time axis and nothing is permuted:

    frames [N*T, C, H, W]  =  [N, T, H*W, C] in memory  =  an image [N, C, T, H*W] in channels-last

On that image a temporal convolution is a 2-D convolution with a Kx1 kernel, for which PyTorch has its fastest depthwise
kernels. Forward and backward through all 16 blocks of depth 50 (two clips of 8 frames, 224 px, float32, one thread of
an AVX-512 CPU) take 85 ms. A sum of three slices takes 200 ms, permutes around a Conv1d 640 ms, and a Conv3d on the
same view 1100 ms.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def split_time(frames: Tensor, num_frames: int) -> Tensor:
    """View ``frames: [N*T, C, H, W]`` as ``[N, T, H, W, C]``. Frames that are not channels-last are copied."""
    batch, channels, height, width = frames.shape
    nhwc = frames.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    return nhwc.view(batch // num_frames, num_frames, height, width, channels)


def join_time(clips: Tensor) -> Tensor:
    """View contiguous ``[N, T, H, W, C]`` as channels-last ``[N*T, C, H, W]``, the inverse of ``split_time``."""
    return clips.flatten(0, 1).permute(0, 3, 1, 2)


def plain_temporal_conv(frames: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """``stm.model.temporal.temporal_conv`` (equation 1) with PyTorch's convolution, on any device."""
    clips = split_time(frames, num_frames)
    groups = frames.shape[1] // weight.shape[1]
    image = clips.flatten(2, 3).permute(0, 3, 1, 2)
    mixed = F.conv2d(image, weight, padding=(weight.shape[2] // 2, 0), groups=groups)
    return join_time(mixed.permute(0, 2, 3, 1).reshape(clips.shape))


def plain_feature_difference(v: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """``stm.model.cmm.feature_difference`` (equation 2) with PyTorch's operators, on any device."""
    # The first frame of each clip is convolved too, and not used: at C/r channels that is cheaper than copying frames
    # 2..T of each clip into contiguous memory.
    convolved = F.conv2d(v, weight, padding=1, groups=len(weight))
    difference = split_time(convolved, num_frames)[:, 1:] - split_time(v, num_frames)[:, :-1]
    last_step = (0, 0, 0, 0, 0, 0, 0, 1)
    return join_time(F.pad(difference, last_step))
