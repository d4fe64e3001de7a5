"""TSM (Lin et al., ICCV 2019): the input of the first 1x1 is shifted along time, but not the shortcut's."""

from __future__ import annotations

from stm.model.block import Bottleneck
from stm.model.registry import register
from stm.model.temporal import TemporalShift


@register("tsm")
def tsm(in_channels: int, channels: int, stride: int) -> Bottleneck:
    """Make a block that shifts a quarter of its input channels along time (TSM)."""
    block = Bottleneck(in_channels, channels, stride)
    block.shift = TemporalShift()
    return block
