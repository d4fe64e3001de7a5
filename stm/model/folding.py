"""A network for inference: what does not depend on the clip is computed once, into the weights.

Try it::

    python -c "from stm.model import *; from stm.model.folding import fold; print(fold(build_model('stm')))"
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from stm.model.block import Add, Bottleneck
from stm.model.cmm import CMM
from stm.model.network import VideoResNet
from stm.model.sync_batchnorm import SyncBatchNorm2d


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
        """Raise an error, since the normalisation that training would update is gone."""
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

    Only what stands in modules of these very classes is touched: ``VideoResNet``, ``Bottleneck``, ``CMM``. A block of
    another class, a subclass as well, and a layer that somebody put in place of ours, keep all that they have, since
    nothing is known of what they compute.

    Products are taken in float64. ``model`` is left as it was, and shares no memory with the copy.
    """
    network = copy.deepcopy(model)
    for module in network.modules():
        pairs = FOLDABLE.get(type(module), ())
        if type(module) is Bottleneck:
            if module.conv3_cmm is not None and not _fold_concatenation(module):
                pairs = pairs[:2]
            if type(module.downsample) is nn.Sequential:
                _fold_pair(module.downsample, "0", "1")
        for conv, norm in pairs:
            _fold_pair(module, conv, norm)
    network.add_module("dropout", nn.Identity())
    network.gradient_checkpointing = False
    return FoldedNetwork(network)


FOLDABLE: dict[type, tuple[tuple[str, str], ...]] = {
    VideoResNet: (("conv1", "bn1"),),
    Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    CMM: (("reduce", "bn"),),
}
"""Class -> its convolutions, each with the normalisation that follows and with nothing between. A class of your own may
be entered, too."""


def is_exactly(layers: nn.Module, **kinds: type) -> bool:
    """Whether these layers of a module are of these very classes, and nobody hooked into them."""
    found: dict[str, Any] = {name: getattr(layers, name, None) for name in kinds}
    return all(
        type(found[name]) is kind
        and not (found[name]._forward_hooks or found[name]._forward_pre_hooks)
        for name, kind in kinds.items()
    )


def _can_fold(layers: nn.Module, conv: str, norm: str) -> bool:
    return (
        is_exactly(layers, **{conv: nn.Conv2d})
        and layers.get_submodule(conv).bias is None
        and any(is_exactly(layers, **{norm: kind}) for kind in (nn.BatchNorm2d, SyncBatchNorm2d))
    )


def _fold_concatenation(block: Bottleneck) -> bool:
    """Make CMM's half of the last 1x1 ready for bn3 to go into the other; whether that can be done.

    bn3 scales it, too. CMM's expansion goes into it where no pooling stands between them.
    """
    if not (is_exactly(block, conv3_cmm=nn.Conv2d, sum=Add) and _can_fold(block, "conv3", "bn3")):
        return False
    assert isinstance(block.conv3_cmm, nn.Conv2d)
    block.conv3_cmm = _scaled(block.conv3_cmm, _scale_and_shift(block.bn3)[0])
    if type(block.cmm) is CMM and is_exactly(block.cmm, pool=nn.Identity, expand=nn.Conv2d):
        block.conv3_cmm = _composed(block.conv3_cmm, block.cmm.expand)
        block.cmm.add_module("expand", nn.Identity())
    return True


def _fold_pair(layers: nn.Module, conv: str, norm: str) -> None:
    """Put ``norm(conv(x))`` into ``conv``, as one convolution with a bias, and nothing into ``norm``."""
    if not _can_fold(layers, conv, norm):
        return
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
    """``scale * conv(x)``, for a convolution without a bias, as all of ours are."""
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
