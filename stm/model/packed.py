"""Run the folded network with oneDNN's fused convolutions: float32 inference on x86 CPUs.

A fused convolution also computes the ReLU after it, or adds its result to an existing tensor (CMM's to CSTM's, the last
1x1's to the shortcut), in one pass over memory. Its weights are stored in oneDNN's order for the shape of the frames;
PyTorch reorders them in every call. Only layers inside the network and its blocks are replaced: their ``forward``
methods are not repeated here.

Try it::

    python -c "from stm.model import *; from stm.model.packed import pack; print(pack(build_model('stm')))"
"""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stm.model.block import Add, AddReLU, Bottleneck
from stm.model.cmm import CMM, FeatureDifference
from stm.model.folding import fold, is_exactly
from stm.model.network import VideoResNet
from stm.model.temporal import ChannelwiseTemporalConv
from stm.model.time_axis import join_time, split_time

_NARROW = 128
"""Up to this many input channels, CMM's squeeze is faster as a matrix product: oneDNN pads C/r outputs to 16."""


def can_pack() -> bool:
    """Whether ``pack`` works on this machine with this PyTorch, whose public API does not include the operators."""
    operators = ("_convolution_pointwise", "_convolution_pointwise_", "_reorder_convolution_weight")
    return (
        platform.machine().lower() in ("x86_64", "amd64")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operators)
    )


def pack(model: VideoResNet) -> PackedNetwork:
    """Copy ``model`` (float32, on the CPU) into a faster network with the same logits in evaluation, up to rounding.

    As in ``fold``, blocks and layers of other classes stay as they are. ``model`` does not change and shares no memory
    with the copy.
    """
    network = fold(model).network
    # Only the block itself uses the input of a block of the network, so it may overwrite that input.
    own = set(network.blocks.values()) if type(network) is VideoResNet else set()
    for module in list(network.modules()):
        if type(module) is VideoResNet:
            _pack_with_relu(module, "conv1", "bn1", "relu")
        elif type(module) is Bottleneck:
            _pack_block(module, owns_input=module in own)
        elif type(module) is CMM:
            _pack_cmm(module)
    return PackedNetwork(network)


class PackedNetwork(nn.Module):
    """The result of ``pack``. It keeps weights in the order for the last shape of clips, and reorders them for another.

    It can be called from several threads.
    """

    def __init__(self, network: VideoResNet) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def forward(self, clips: Tensor) -> Tensor:
        """``clips: float32 [N, T, 3, H, W]`` -> ``logits: float32 [N, num_classes]``."""
        return self.network(clips)


def _pack_block(block: Bottleneck, *, owns_input: bool) -> None:
    _pack_with_relu(block, "conv1", "bn1", "relu1")
    _pack_with_relu(block, "conv2", "bn2", "relu2")
    if type(block.downsample) is nn.Sequential:
        _pack_conv(block.downsample, "0")
    temporal = block.temporal
    if type(temporal) is ChannelwiseTemporalConv and is_exactly(block, temporal=type(temporal)):
        block.temporal = PackedTemporalConv(temporal.weight)
    if block.conv3_cmm is not None:  # sum(conv3_cmm(b), conv3(a))
        _pack_conv(block, "conv3")
        _pack_onto(block, block, "conv3_cmm", "sum", Add)
        return
    if type(block.cmm) is CMM and is_exactly(block.cmm, pool=nn.Identity):
        _pack_onto(block, block.cmm, "expand", "sum", Add)
    if is_exactly(block, bn3=nn.Identity) and (owns_input or block.downsample is not None):
        _pack_onto(block, block, "conv3", "residual", AddReLU)
    else:
        _pack_conv(block, "conv3")


def _pack_cmm(cmm: CMM) -> None:
    if is_exactly(cmm, motion=FeatureDifference):
        cmm.add_module("motion", PackedFeatureDifference(cmm.motion))
    if is_exactly(cmm, reduce=nn.Conv2d) and cmm.reduce.in_channels <= _NARROW:
        cmm.add_module("reduce", MatrixProduct(cmm.reduce))
    _pack_conv(cmm, "reduce")
    _pack_conv(cmm, "expand")


def _pack_conv(layers: nn.Module, conv: str, activation: str = "none") -> bool:
    """Replace a convolution by a ``PackedConv``; False if it is not one that oneDNN computes in one call."""
    found = layers.get_submodule(conv)
    if not (isinstance(found, nn.Conv2d) and is_exactly(layers, **{conv: nn.Conv2d})):
        return False
    if found.padding_mode != "zeros" or isinstance(found.padding, str):
        return False
    layers.add_module(conv, PackedConv(found, activation))
    return True


def _pack_with_relu(layers: nn.Module, conv: str, norm: str, relu: str) -> None:
    """Pack a convolution, with the ReLU after it if the normalisation between them has been folded."""
    if is_exactly(layers, **{norm: nn.Identity, relu: nn.ReLU}) and _pack_conv(
        layers, conv, "relu"
    ):
        layers.add_module(relu, nn.Identity())
    else:
        _pack_conv(layers, conv)


def _pack_onto(block: nn.Module, layers: nn.Module, conv: str, total: str, kind: type) -> None:
    """For total(conv(x), y): move the convolution into the layer ``total``, which adds its result to y."""
    if is_exactly(block, **{total: kind}) and _pack_conv(layers, conv):
        packed = layers.get_submodule(conv)
        assert isinstance(packed, PackedConv)
        block.add_module(total, PackedConvOnto(packed, "relu" if kind is AddReLU else None))
        layers.add_module(conv, nn.Identity())


class PackedConv(nn.Module):
    """A convolution of channels-last frames, with the activation after it (``none`` or ``relu``)."""

    def __init__(self, conv: nn.Conv2d, activation: str = "none") -> None:
        super().__init__()
        self.weight, self.bias, self.activation = conv.weight, conv.bias, activation
        self.geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
        self._ordered = (torch.Size(), torch.empty(0))

    def forward(self, frames: Tensor) -> Tensor:
        """``frames: float32 [B, Cin, H, W]`` -> ``[B, Cout, H', W']``."""
        weight = self.weight_for(frames)
        return torch.ops.mkldnn._convolution_pointwise(
            frames, weight, self.bias, *self.geometry, self.activation, [], ""
        )

    def weight_for(self, frames: Tensor) -> Tensor:
        """Return the weight in oneDNN's order for frames of this shape."""
        shape, weight = self._ordered  # one tuple, because other threads read and write it too
        if frames.shape != shape:
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, *self.geometry, list(frames.shape)
            )
            self._ordered = (frames.shape, weight)
        return weight


class PackedConvOnto(nn.Module):
    """Overwrite ``total`` with conv(frames) + total, or with the ReLU of that (``activation="relu"``)."""

    def __init__(self, conv: PackedConv, activation: str | None = None) -> None:
        super().__init__()
        self.conv, self.activation = conv, activation

    def forward(self, frames: Tensor, total: Tensor) -> Tensor:
        """``frames: float32 [B, Cin, H, W]``, ``total: [B, Cout, H', W']`` -> ``[B, Cout, H', W']``."""
        weight, conv = self.conv.weight_for(frames), self.conv
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            total, frames, weight, conv.bias, *conv.geometry, "add", 1.0, self.activation, [], ""
        )


class MatrixProduct(nn.Module):
    """A 1x1 convolution as a matrix product, with one row for each pixel."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, frames: Tensor) -> Tensor:
        """``frames: float32 [B, Cin, H, W]`` -> ``[B, Cout, H, W]``."""
        rows = frames.permute(0, 2, 3, 1)
        return F.linear(rows, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


class PackedFeatureDifference(nn.Module):
    """``stm.model.cmm.FeatureDifference``, which overwrites its input (paper, equation 2)."""

    def __init__(self, motion: FeatureDifference) -> None:
        super().__init__()
        self.conv = PackedConv(motion)

    def forward(self, v: Tensor, num_frames: int) -> Tensor:
        """``v: float32 [N*T, C, H, W]`` -> the same shape."""
        now, convolved = (split_time(x, num_frames) for x in (v, self.conv(v)))
        torch.sub(convolved[:, 1:], now[:, :-1], out=now[:, :-1])
        now[:, -1].zero_()
        return join_time(now)


class PackedTemporalConv(nn.Module):
    """``ChannelwiseTemporalConv`` (paper, equation 1), with each pixel of each channel as a separate channel.

    On an image of T rows, each frame would be fetched from memory once for each output that depends on it. In this
    layout, oneDNN computes all T steps of a few channels at a time, which fit into the cache.

    Args:
        weight: float32 ``[C, 1, K, 1]``.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight
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
        """A convolution whose weight repeats the kernels ``[C, 1, K, 1]`` for each pixel: ``[H*W*C, 1, K, 1]``."""
        channels, _, taps, _ = self.weight.shape
        with torch.device("meta"):  # creates no initial weights
            conv = nn.Conv2d(
                width, width, (taps, 1), padding=(taps // 2, 0), groups=width, bias=False
            )
        kernels = self.weight.repeat(width // channels, 1, 1, 1)
        conv.weight = nn.Parameter(kernels, requires_grad=False)
        return PackedConv(conv)
