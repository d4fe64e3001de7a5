"""A network for inference: what does not depend on the clip is computed once, into the weights.

Try it::

    python -c "from stm.model import *; from stm.model.folding import fold; print(fold(build_model('stm')))"
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stm.model.block import Bottleneck
from stm.model.cmm import CMM
from stm.model.network import VideoResNet


class FoldedNetwork(nn.Module):
    """What ``fold`` returns: a network that runs, and can neither be trained nor folded again."""

    def __init__(self, network: VideoResNet) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False)
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """``clips: float [N, T, 3, H, W]`` -> ``logits: float [N, num_classes]``."""
        return self.network(clips)

    def train(self, mode: bool = True) -> FoldedNetwork:
        """Refuse: the normalisation that training would update is gone."""
        if mode:
            raise RuntimeError("a folded network has no batch normalisation left to train")
        return super().train(False)


@torch.no_grad()
def fold(model: VideoResNet) -> FoldedNetwork:
    """A copy of ``model`` that computes in evaluation what ``model`` does, with fewer passes over memory.

    - Every BN, CMM's among them, goes into the convolution before it:
      BN(W x) = s W x + (beta - s mu), s = gamma / sqrt(var + eps).
    - Under ``fusion="concat"`` CMM's expansion and the 1x1 over it are two linear maps in a row.
      Where no pooling stands between them (stride 1) they become one, C/r -> 4C in place of
      C/r -> C -> 4C.
    - Dropout and gradient checkpointing, which do nothing in evaluation, are taken out.

    CMM's squeeze keeps the bias it gets as a bias, ahead of the motion convolution: that pads with
    zeros, so near the border a constant could not be moved behind it. With ``fusion="sum"`` the
    expansion stays by itself: merged into the last 1x1 it would cost four times the operations and
    a pass over 4C channels, to save one over C.

    Products are taken in float64. ``model`` is left as it was, and shares no memory with the copy.
    """
    network = copy.deepcopy(model)
    _fold_pair(network, "conv1", "bn1")
    for block in network.modules():
        if isinstance(block, Bottleneck):
            _fold_block(block)
    network.add_module("dropout", nn.Identity())
    network.gradient_checkpointing = False
    left = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert not left, f"{left} follow no convolution that this function knows"
    return FoldedNetwork(network)


def _fold_block(block: Bottleneck) -> None:
    if isinstance(block.conv3_cmm, nn.Conv2d):
        assert isinstance(block.cmm, CMM)
        # Before conv3 takes bn3 in: this half of the last 1x1 is scaled by it, too.
        block.conv3_cmm = _scaled(block.conv3_cmm, _scale_and_shift(block.bn3)[0])
        if isinstance(block.cmm.pool, nn.Identity):
            block.conv3_cmm = _composed(block.conv3_cmm, block.cmm.expand)
            block.cmm.add_module("expand", nn.Identity())
    for number in (1, 2, 3):
        _fold_pair(block, f"conv{number}", f"bn{number}")
    if block.downsample is not None:
        _fold_pair(block.downsample, "0", "1")
    if block.cmm is not None:
        _fold_pair(block.cmm, "reduce", "bn")


def _fold_pair(layers: nn.Module, conv: str, norm: str) -> None:
    """Put ``norm(conv(x))`` into ``conv``, as one convolution with a bias, and nothing into ``norm``."""
    before, after = layers.get_submodule(conv), layers.get_submodule(norm)
    assert isinstance(before, nn.Conv2d)
    assert isinstance(after, nn.BatchNorm2d)
    scale, shift = _scale_and_shift(after)
    folded = _scaled(before, scale)
    folded.bias = nn.Parameter(shift.to(before.weight))
    layers.add_module(conv, folded)
    layers.add_module(norm, nn.Identity())


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """BN in evaluation as ``scale * x + shift``: float64 ``[C]`` each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _scaled(conv: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """``scale * conv(x)``, for a convolution without a bias."""
    assert conv.bias is None
    scaled = copy.copy(conv)
    scaled._parameters = dict(conv._parameters)
    weight = conv.weight.double() * scale[:, None, None, None]
    scaled.weight = nn.Parameter(weight.to(conv.weight))
    return scaled


def _composed(second: nn.Conv2d, first: nn.Conv2d) -> nn.Conv2d:
    """``second(first(x))`` of two 1x1 convolutions without biases, as one."""
    weight = second.weight.double().flatten(1) @ first.weight.double().flatten(1)
    composed = nn.Conv2d(first.in_channels, second.out_channels, 1, bias=False)
    composed.weight = nn.Parameter(weight[:, :, None, None].to(second.weight))
    return composed
