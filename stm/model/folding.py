"""Fold batch normalisation into the convolutions of a network, for inference.

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
    """The result of ``fold``: a network for inference, which cannot be trained or folded again."""

    def __init__(self, network: VideoResNet) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(False)
        self.eval()

    def forward(self, clips: Tensor) -> Tensor:
        """``clips: float [N, T, 3, H, W]`` -> ``logits: float [N, num_classes]``."""
        return self.network(clips)

    def train(self, mode: bool = True) -> FoldedNetwork:
        """Stay in evaluation mode; ``RuntimeError`` if ``mode`` is True, because no normalisation is left to train."""
        if mode:
            raise RuntimeError("a folded network has no batch normalisation left to train")
        return super().train(False)


@torch.no_grad()
def fold(model: VideoResNet) -> FoldedNetwork:
    """Copy ``model`` into a network that gives the same logits in evaluation, with fewer passes over memory.

    - Every BN, also CMM's, is folded into the convolution before it:
      BN(W x) = s W x + (beta - s mu), s = gamma / sqrt(var + eps).
    - With ``fusion="concat"``, CMM's expansion and the 1x1 after it are two consecutive linear maps. In blocks of
      stride 1, which have no pooling between them, they become one: C/r -> 4C instead of C/r -> C -> 4C.
    - Dropout and gradient checkpointing, which do nothing in evaluation, are removed.

    The bias that CMM's squeeze gets stays before the motion convolution. That convolution pads with zeros, so near the
    border the bias would not be a constant after it. With ``fusion="sum"`` the expansion stays separate: merged into
    the last 1x1 it would cost four times the operations and a pass over 4C channels, and save one pass over C.

    Only modules whose class is exactly ``VideoResNet``, ``Bottleneck`` or ``CMM`` are changed. Blocks of other classes
    (subclasses too) and replaced layers stay as they are, because it is not known what they compute.

    Products are computed in float64. ``model`` does not change and shares no memory with the copy.
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
"""Class -> pairs of a convolution and the normalisation that directly follows it. You can add classes of your own."""


def is_exactly(layers: nn.Module, **kinds: type) -> bool:
    """Whether the named layers have exactly these classes (no subclasses) and no forward hooks."""
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
    """Fold bn3's scale into ``conv3_cmm``; False if bn3 cannot be folded, and then nothing changes.

    Without pooling between them, CMM's expansion is merged into ``conv3_cmm`` too.
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
    """Replace ``conv`` by one convolution with a bias that computes ``norm(conv(x))``, and ``norm`` by an identity."""
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
    """BN in evaluation mode as ``scale * x + shift``: two tensors, float64 ``[C]``."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _scaled(conv: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """A convolution that computes ``scale * conv(x)``, from one without a bias."""
    scaled = copy.copy(conv)
    scaled._parameters = dict(conv._parameters)
    weight = conv.weight.double() * scale[:, None, None, None]
    scaled.weight = nn.Parameter(weight.to(conv.weight))
    return scaled


def _composed(second: nn.Conv2d, first: nn.Conv2d) -> nn.Conv2d:
    """One 1x1 convolution that computes ``second(first(x))``, from two without biases."""
    weight = second.weight.double().flatten(1) @ first.weight.double().flatten(1)
    composed = nn.Conv2d(first.in_channels, second.out_channels, 1, bias=False)
    composed.weight = nn.Parameter(weight[:, :, None, None].to(second.weight))
    return composed
