"""STM as other re-implementations do it: the same function and weights, in PyTorch's default memory layout.

Frames are stored as ``[N*T, C, H, W]``, with a plane for each channel. The temporal convolution is a Conv1d on
``[N*H*W, C, T]``, with permutations before and after it; CMM slices its frames from ``[N, T, C, H, W]``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stm.model import build_model
from stm.model.cmm import CMM
from stm.model.folding import FOLDABLE
from stm.model.network import VideoResNet
from stm.model.temporal import ChannelwiseTemporalConv


class NaiveTemporalConv(ChannelwiseTemporalConv):
    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """Map ``frames: [N*T, C, H, W]`` to the same shape."""
        _, channels, height, width = frames.shape
        clips = frames.view(-1, num_frames, channels, height, width)
        pixels = clips.permute(0, 3, 4, 2, 1).reshape(-1, channels, num_frames)
        mixed = F.conv1d(pixels, self.weight[..., 0], padding=1, groups=channels)
        mixed = mixed.view(-1, height, width, channels, num_frames)
        return mixed.permute(0, 4, 3, 1, 2).reshape(frames.shape)


class NaiveCMM(CMM):
    def forward(self, u: Tensor, num_frames: int) -> Tensor:
        """Map ``u: [N*T, C, H, W]`` to ``[N*T, C, H/s, W/s]`` (rounded up)."""
        v = self.bn(self.reduce(u))
        convolved = F.conv2d(v, self.motion.weight, padding=1, groups=v.shape[1])
        now, after = (x.view(-1, num_frames, *v.shape[1:]) for x in (v, convolved))
        difference = F.pad(after[:, 1:] - now[:, :-1], (0, 0, 0, 0, 0, 0, 0, 1))
        return self.pool(self.expand(difference.view_as(v)))


FOLDABLE[NaiveCMM] = FOLDABLE[CMM]


def build_naive(**settings: Any) -> VideoResNet:
    """Return ``build_model("stm", **settings)`` with these layers instead of stm's."""
    model = build_model("stm", **settings)
    for layer in model.modules():
        if type(layer) is ChannelwiseTemporalConv:
            layer.__class__ = NaiveTemporalConv
        elif type(layer) is CMM:
            layer.__class__ = NaiveCMM
    model.memory_format = torch.contiguous_format
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return model
