"""A plugin as a user writes one, made to trip whatever repeats or guesses what a block computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stm.model import Block, register
from stm.model.cmm import CMM


class Scaled(nn.BatchNorm2d):
    """Normalisation that nothing of ours knows."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


@register("gated")
class Gated(Block):
    """CMM gates the 3x3, which comes twice, and x is wanted to the end."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        *,
        slope: float = 0.1,
        reduction: int = 4,
    ) -> None:
        super().__init__(in_channels, channels, stride)
        self.bn1 = Scaled(channels)
        self.relu1 = nn.LeakyReLU(slope)
        self.cmm = CMM(channels, stride, reduction)
        self.again = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        u = self.relu1(self.bn1(self.conv1(x)))
        gate = torch.sigmoid(self.cmm(u, num_frames))
        a = self.bn2(self.again(self.conv2(u))) * gate  # bn2 does not follow conv2
        y = self.bn3(self.conv3(a)).tanh()
        return y + (x if self.downsample is None else self.downsample(x))


@register("wrapped")
class Wrapped(nn.Module):
    """Holds a block of ours, and needs x after it."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = Block(in_channels, channels, stride)
        self.second = Block(4 * channels, channels)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        y = self.first(x, num_frames)
        return self.second(y, num_frames) - 0.5 * y
