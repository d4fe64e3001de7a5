"""TSN (Wang et al., ECCV 2016): ResNet's own block, which computes each frame separately."""

from __future__ import annotations

from stm.model.block import Bottleneck
from stm.model.registry import register


@register("tsn")
def tsn(in_channels: int, channels: int, stride: int) -> Bottleneck:
    """Make ResNet's own block, which does not mix frames (TSN)."""
    return Bottleneck(in_channels, channels, stride)
