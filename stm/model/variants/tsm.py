"""TSM (Lin et al., ICCV 2019): the input of the first 1x1 is shifted along time, the shortcut is left alone."""

from __future__ import annotations

from stm.model.block import Bottleneck
from stm.model.registry import register
from stm.model.temporal import TemporalShift


@register("tsm")
def tsm(in_channels: int, channels: int, stride: int) -> Bottleneck:
    """Some channels are shifted along time ahead of the block (TSM)."""
    block = Bottleneck(in_channels, channels, stride)
    block.shift = TemporalShift()
    return block
