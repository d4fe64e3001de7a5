"""The STM block: a residual bottleneck with optional CSTM and CMM (paper, section 3.3). No other file computes it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

EXPANSION = 4


class Bottleneck(nn.Module):
    """A ResNet bottleneck (stride on the 3x3) with optional CSTM and CMM (paper, section 3.3).

        u   = ReLU(BN(conv1x1(shift(x))))           Cin -> C
        a   = ReLU(BN(conv3x3(temporal(u))))        C -> C, stride s       CSTM (section 3.1)
        b   = CMM(u)                                C -> C, stride s       CMM (section 3.2)
        y   = BN(conv1x1(a + b))                    C -> 4C
        out = ReLU(y + shortcut(x))

    There is no normalisation and no activation between the sum and the last 1x1. The constructor makes ResNet's own
    block: ``shift``, ``temporal``, ``cmm`` and ``conv3_cmm`` are None, and ``forward`` skips a layer that is None. The
    modules of ``stm.model.variants`` set them. The temporal convolution runs at full resolution, because ``conv2``
    carries the stride. ``conv2`` and ``bn2`` keep ResNet's names, so that ImageNet weights load.

    With ``conv3_cmm``, the block is the paper's concatenation ablation: y = BN(conv1x1([a; b])), 2C -> 4C. That 1x1 is
    stored as two, ``conv3`` over a and ``conv3_cmm`` over b, whose outputs are added. The function and the number of
    weights are the same, and ImageNet weights still load into ``conv3``.

    The operations between the convolutions (``relu1``, ``sum``, ``residual``, ...) are layers without weights, so that
    ``stm.model.folding`` and ``stm.model.packed`` can replace layers without repeating ``forward``.

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
        """``x: float [N*T, Cin, H, W]`` -> ``[N*T, 4C, H/s, W/s]`` (rounded up), of the same dtype."""
        shifted = x if self.shift is None else self.shift(x, num_frames)
        u = self.relu1(self.bn1(self.conv1(shifted)))
        # CMM runs first, while u is in the cache.
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
    """Add the second tensor to the first in place: no gradient needs CMM's output, but ReLU's gradient needs a."""

    def forward(self, into: Tensor, other: Tensor) -> Tensor:
        """Two tensors ``[N*T, C, H, W]`` -> one of the same shape."""
        return into.add_(other)


class AddReLU(nn.Module):
    """Overwrite ``y`` with ReLU(y + shortcut)."""

    def forward(self, y: Tensor, shortcut: Tensor) -> Tensor:
        """Two tensors ``[N*T, C, H, W]`` -> one of the same shape."""
        return F.relu(y.add_(shortcut), inplace=True)
