"""The residual bottleneck, which may carry CSTM and CMM. The only place that says what a block computes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4


class Bottleneck(nn.Module):
    """A ResNet bottleneck (stride on the 3x3) with room for CSTM and CMM (paper, section 3.3).

        u   = ReLU(BN(conv1x1(shift(x))))           Cin -> C
        a   = ReLU(BN(conv3x3(temporal(u))))        C -> C, stride s       CSTM (section 3.1)
        b   = CMM(u)                                C -> C, stride s
        y   = BN(conv1x1(a + b))                    C -> 4C
        out = ReLU(y + shortcut(x))

    Neither normalisation nor activation stands between the sum and the last 1x1. As it is made here it is ResNet's own
    block: ``shift``, ``temporal``, ``cmm`` and ``conv3_cmm`` are None, and leave out what they stand for. The modules
    of ``stm.model.variants`` fill them in. The temporal convolution sees the full resolution, since ``conv2`` carries
    the stride; ``conv2`` and ``bn2`` are ResNet's and keep its names, so that ImageNet weights load.

    With ``conv3_cmm`` it is the paper's ablation, y = BN(conv1x1([a; b])) from 2C channels: the 1x1 over both halves is
    held as two, ``conv3`` over a and ``conv3_cmm`` over b, whose outputs are summed: the same function and the same
    number of weights, and ImageNet still fills ``conv3``.

    What stands between the convolutions are layers, too (``relu1``, ``sum``, ``residual``, ...), without a weight:
    ``stm.model.folding`` and ``stm.model.packed`` replace layers and never repeat ``forward``.

    Args:
        in_channels: Cin.
        channels: C.
        stride: s, 1 or 2.
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.sum, self.residual = Add(), AddReLU()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

        self.shift: nn.Module | None = None
        self.temporal: nn.Module | None = None
        self.cmm: nn.Module | None = None
        self.conv3_cmm: nn.Module | None = None

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``x: float [N*T, Cin, H, W]`` -> ``[N*T, 4C, H/s, W/s]`` (rounded up)."""
        shifted = x if self.shift is None else self.shift(x, num_frames)
        u = self.relu1(self.bn1(self.conv1(shifted)))
        # CMM comes first, while u is in the cache.
        b = None if self.cmm is None else self.cmm(u, num_frames)
        mixed = u if self.temporal is None else self.temporal(u, num_frames)
        a = self.relu2(self.bn2(self.conv2(mixed)))
        if b is None:
            y = self.conv3(a)
        elif self.conv3_cmm is None:
            y = self.conv3(self.sum(b, a))
        else:
            y = self.sum(self.conv3_cmm(b), self.conv3(a))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.residual(self.bn3(y), shortcut)


class Add(nn.Module):
    """The sum of two tensors, written over the first: no gradient needs what CMM gave, while that of ReLU needs a."""

    def forward(self, into: Tensor, other: Tensor) -> Tensor:
        """Two of ``[N*T, C, H, W]`` -> the same shape."""
        return into.add_(other)


class AddReLU(nn.Module):
    """ReLU(y + shortcut), written over ``y``."""

    def forward(self, y: Tensor, shortcut: Tensor) -> Tensor:
        """Two of ``[N*T, C, H, W]`` -> the same shape."""
        return F.relu(y.add_(shortcut), inplace=True)
