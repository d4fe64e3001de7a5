"""TSN (Wang et al., ECCV 2016): ResNet's own block, which sees each frame by itself."""

from __future__ import annotations

from stm.model.block import Bottleneck
from stm.model.registry import register


@register("tsn")
def tsn(in_channels: int, channels: int, stride: int) -> Bottleneck:
    """ResNet's own block, which mixes no time (TSN)."""
    return Bottleneck(in_channels, channels, stride)
