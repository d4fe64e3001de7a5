"""The folded network in oneDNN's fused convolutions: inference in float32 on x86 CPUs.

A convolution takes along what stands next to it, so that memory is passed once: the ReLU behind it, or the sum with
what is there already (CMM with CSTM, the last 1x1 with the shortcut). Its weights lie as oneDNN wants them for this
shape of frames; PyTorch orders them anew in every call.

Try it::

    python -c "from stm.model import *; from stm.model.packed import pack; print(pack(build_model('stm')))"
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stm.model.block import Bottleneck
from stm.model.cmm import CMM
from stm.model.folding import fold
from stm.model.network import VideoResNet
from stm.model.temporal import ChannelwiseTemporalConv, join_time, split_time, temporal_shift

_NARROW = 128
"""Up to so many channels a matrix product squeezes faster: oneDNN computes 16 channels where C/r are fewer."""


def can_pack() -> bool:
    """Whether this machine and this PyTorch have what `pack` needs; the operators are not part of its public API."""
    operators = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


def pack(model: VideoResNet) -> PackedNetwork:
    """A copy of ``model`` (float32, on the CPU) that computes in evaluation what ``model`` does, up to rounding.

    ``model`` is left as it was, and shares no memory with the copy.
    """
    return PackedNetwork(fold(model).network)


class PackedNetwork(nn.Module):
    """What ``pack`` returns. It holds weights in order for the last shape of clips; another shape orders them anew.

    Several threads may call it.
    """

    def __init__(self, folded: VideoResNet) -> None:
        super().__init__()
        self.conv1 = PackedConv(folded.conv1)
        blocks = [block for block in folded.modules() if isinstance(block, Bottleneck)]
        self.blocks = nn.ModuleList(PackedBottleneck(block) for block in blocks)
        self.fc = folded.fc
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """``clips: float32 [N, T, 3, H, W]`` -> ``logits: float32 [N, num_classes]``."""
        batch, num_frames = clips.shape[:2]
        frames = clips.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        x = F.max_pool2d(self.conv1.relu(frames), kernel_size=3, stride=2, padding=1)
        for block in self.blocks:
            x = block(x, num_frames)
        return self.fc(x.mean(dim=(2, 3))).view(batch, num_frames, -1).mean(dim=1)


class PackedConv(nn.Module):
    """A convolution of channels-last frames, with what stands next to it."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        assert isinstance(conv, nn.Conv2d)
        self.weight, self.bias = conv.weight, conv.bias
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._ordered_for = torch.Size()
        self._ordered = torch.empty(0)

    def forward(self, frames: Tensor, activation: str = "none") -> Tensor:
        """``frames: float32 [B, Cin, H, W]`` -> ``[B, Cout, H', W']``."""
        return torch.ops.mkldnn._convolution_pointwise(
            frames, self._weight_for(frames), self.bias, *self._geometry, activation, [], ""
        )

    def relu(self, frames: Tensor) -> Tensor:
        """ReLU(conv(frames))."""
        return self(frames, "relu")

    def add_to(self, total: Tensor, frames: Tensor, activation: str | None = None) -> Tensor:
        """``total`` + conv(frames), written over ``total``; ``activation="relu"`` takes its ReLU."""
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            total,
            frames,
            self._weight_for(frames),
            self.bias,
            *self._geometry,
            "add",
            1.0,
            activation,
            [],
            "",
        )

    def _weight_for(self, frames: Tensor) -> Tensor:
        if frames.shape != self._ordered_for:
            self._ordered = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self._geometry, list(frames.shape)
            )
            self._ordered_for = frames.shape
        return self._ordered


class PackedBottleneck(nn.Module):
    """``stm.model.block.Bottleneck`` in evaluation."""

    def __init__(self, block: Bottleneck) -> None:
        super().__init__()
        self.shift = block.shift
        self.conv1, self.conv2 = PackedConv(block.conv1), PackedConv(block.conv2)
        self.conv3 = PackedConv(block.conv3)
        self.conv3_cmm = None if block.conv3_cmm is None else PackedConv(block.conv3_cmm)
        downsample = block.downsample
        self.shortcut = None if downsample is None else PackedConv(downsample.get_submodule("0"))
        self.cmm = PackedCMM(block.cmm) if isinstance(block.cmm, CMM) else None
        self.temporal = block.temporal
        if isinstance(block.temporal, ChannelwiseTemporalConv):
            self.temporal = PackedTemporalConv(block.temporal)

    def forward(self, x: Tensor, num_frames: int) -> Tensor:
        """``x: float32 [N*T, Cin, H, W]`` -> ``[N*T, 4C, H/s, W/s]`` (rounded up), perhaps written over ``x``."""
        u = self.conv1.relu(temporal_shift(x, num_frames) if self.shift else x)
        # CMM's first half comes before CSTM, while u is in the cache.
        difference = None if self.cmm is None else self.cmm.difference(u, num_frames)
        a = self.conv2.relu(u if self.temporal is None else self.temporal(u, num_frames))
        y = x if self.shortcut is None else self.shortcut(x)
        if self.cmm is not None and difference is not None:
            if self.conv3_cmm is not None:
                y = self.conv3_cmm.add_to(y, self.cmm(difference))
            else:
                a = self.cmm.add_to(a, difference)
        return self.conv3.add_to(y, a, "relu")


class PackedTemporalConv(nn.Module):
    """``ChannelwiseTemporalConv``, with every pixel of every channel as a channel of its own.

    As an image of T rows a frame is fetched from memory three times, once for each output that looks at it. In this
    form oneDNN takes some channels through all of T, and the cache holds them.
    """

    def __init__(self, temporal: ChannelwiseTemporalConv) -> None:
        super().__init__()
        self.weight = temporal.weight
        self._wide: PackedConv | None = None

    def forward(self, frames: Tensor, num_frames: int) -> Tensor:
        """``frames: float32 [N*T, C, H, W]`` -> the same shape."""
        clips = split_time(frames, num_frames)
        width = clips[0, 0].numel()
        wide = self._wide
        if wide is None or len(wide.weight) != width:
            self._wide = wide = self._repeated(width)
        rows = clips.view(len(clips), num_frames, 1, width).permute(0, 3, 1, 2)
        return join_time(wide(rows).permute(0, 2, 3, 1).reshape(clips.shape))

    def _repeated(self, width: int) -> PackedConv:
        """The kernels ``[C, 1, 3, 1]`` for each pixel: ``[H*W*C, 1, 3, 1]``."""
        channels, _, taps, _ = self.weight.shape
        with torch.device("meta"):  # its own weights are never made
            conv = nn.Conv2d(width, width, (taps, 1), padding=(1, 0), groups=width, bias=False)
        kernels = self.weight.repeat(width // channels, 1, 1, 1)
        conv.weight = nn.Parameter(kernels, requires_grad=False)
        return PackedConv(conv)


class PackedCMM(nn.Module):
    """``stm.model.cmm.CMM`` in evaluation."""

    def __init__(self, cmm: CMM) -> None:
        super().__init__()
        self.reduce, self.motion = PackedConv(cmm.reduce), PackedConv(cmm.motion)
        # `fold` may have merged the expansion with the 1x1 behind it.
        self.expand = None if isinstance(cmm.expand, nn.Identity) else PackedConv(cmm.expand)
        self.pool = cmm.pool

    def difference(self, u: Tensor, num_frames: int) -> Tensor:
        """What moved between a frame and the next, from ``u: float32 [N*T, C, H, W]``: ``[N*T, C/r, H, W]``.

        As ``stm.model.cmm.feature_difference``, written over the squeezed frames.
        """
        v = self.reduce(u) if u.shape[1] > _NARROW else _matrix_product(u, self.reduce)
        now, convolved = (split_time(x, num_frames) for x in (v, self.motion(v)))
        torch.sub(convolved[:, 1:], now[:, :-1], out=now[:, :-1])
        now[:, -1].zero_()
        return join_time(now)

    def forward(self, difference: Tensor) -> Tensor:
        """``[N*T, C/r, H, W]`` -> CMM's output, of C channels, or of C/r where there is no expansion."""
        return self.pool(difference if self.expand is None else self.expand(difference))

    def add_to(self, a: Tensor, difference: Tensor) -> Tensor:
        """``a`` + CMM's output, written over ``a``."""
        if self.expand is not None and isinstance(self.pool, nn.Identity):
            return self.expand.add_to(a, difference)
        return a.add_(self(difference))


def _matrix_product(frames: Tensor, conv: PackedConv) -> Tensor:
    """A 1x1 convolution as what it is, on pixels that lie as rows."""
    rows = frames.permute(0, 2, 3, 1)
    return F.linear(rows, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
