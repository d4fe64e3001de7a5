"""The residual bottleneck in its five variants: STM, its two halves, TSM and ResNet's own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stm.model.cmm import CMM
from stm.model.cstm import cstm
from stm.model.temporal import ChannelwiseTemporalConv, OrdinaryTemporalConv, temporal_shift

EXPANSION = 4
VARIANTS = ("stm", "tsn", "cstm", "cmm", "tsm")
VARIANTS_WITH_TEMPORAL_CONV = ("stm", "cstm")
VARIANTS_WITH_CMM = ("stm", "cmm")
FUSIONS = ("sum", "concat")
TEMPORAL_CONVS = {"channelwise": ChannelwiseTemporalConv, "ordinary": OrdinaryTemporalConv}
ADDED_LAYERS = ("temporal", "cmm", "conv3_cmm")
"""The layers of a block that ResNet does not have, and ImageNet weights therefore cannot fill."""


class Bottleneck(nn.Module):
    """A ResNet bottleneck (stride on the 3x3) that may carry CSTM and CMM (paper, section 3.3).

        u   = ReLU(BN(conv1x1(x)))                  Cin -> C
        a   = CSTM(u)                               C -> C, stride s
        b   = CMM(u)                                C -> C, stride s
        y   = BN(conv1x1(a + b))                    C -> 4C
        out = ReLU(y + shortcut(x))

    Neither normalisation nor activation stands between the sum and the last 1x1.

    ``stm`` is the above; ``cstm`` leaves out b; ``cmm`` leaves out the temporal convolution and
    keeps ResNet's 3x3 as a (the paper does not say what stands beside CMM alone; this keeps the
    ImageNet weights in use); ``tsm`` shifts the input of the first 1x1 and leaves the shortcut
    alone; ``tsn`` is the plain bottleneck.

    ``fusion="concat"`` is the paper's ablation, y = BN(conv1x1([a; b])) from 2C channels. The 1x1
    over both halves is held as two, ``conv3`` over a and ``conv3_cmm`` over b, whose outputs are
    summed: the same function and the same number of weights, and ImageNet still fills ``conv3``.

    Args:
        in_channels: Cin.
        channels: C.
        stride: s, 1 or 2.
        variant: one of ``VARIANTS``.
        fusion: ``sum`` or ``concat``, of a and b.
        temporal_conv: ``channelwise`` or ``ordinary``.
        reduction: CMM's r.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        *,
        variant: str = "stm",
        fusion: str = "sum",
        temporal_conv: str = "channelwise",
        reduction: int = 16,
    ) -> None:
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

        # What follows keeps the initial weights of its own class.
        self.shift = variant == "tsm"
        self.temporal: nn.Module | None = None
        self.cmm: nn.Module | None = None
        self.conv3_cmm: nn.Module | None = None
        if variant in VARIANTS_WITH_TEMPORAL_CONV:
            self.temporal = TEMPORAL_CONVS[temporal_conv](channels)
        if variant in VARIANTS_WITH_CMM:
            self.cmm = CMM(channels, stride, reduction)
            if fusion == "concat":
                self.conv3_cmm = nn.Conv2d(channels, out_channels, 1, bias=False)
                nn.init.kaiming_normal_(self.conv3_cmm.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``x: float [N*T, Cin, H, W]`` -> ``[N*T, 4C, H/s, W/s]`` (rounded up)."""
        shifted = temporal_shift(x, num_frames) if self.shift else x
        u = F.relu(self.bn1(self.conv1(shifted)), inplace=True)
        if self.temporal is not None:
            a = cstm(u, num_frames, self.temporal, self.conv2, self.bn2)
        else:
            a = F.relu(self.bn2(self.conv2(u)), inplace=True)
        y = self.bn3(self._fuse(a, u, num_frames))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)

    def _fuse(self, a: Tensor, u: Tensor, num_frames: int) -> Tensor:
        """The last 1x1, over a alone or over a and b = CMM(u): ``[N*T, 4C, H/s, W/s]``."""
        if self.cmm is None:
            return self.conv3(a)
        b = self.cmm(u, num_frames)
        if self.conv3_cmm is not None:
            return self.conv3(a).add_(self.conv3_cmm(b))
        # Into b and not into a: the ReLU that made a needs it for its gradient, nothing needs b.
        return self.conv3(b.add_(a))
