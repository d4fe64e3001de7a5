"""CMM only, an ablation of the paper: the channel-wise motion module (section 3.2), added to ResNet's 3x3.

The paper does not describe this block. Here it keeps the plain 3x3, so that its ImageNet weights are used.
"""

from __future__ import annotations

from stm.errors import UserError
from stm.model.block import Bottleneck
from stm.model.cmm import CMM
from stm.model.registry import register


@register("cmm")
def cmm(in_channels: int, channels: int, stride: int, *, reduction: int = 16) -> Bottleneck:
    """Make a block with CMM only: feature differences are added to the plain 3x3.

    Args:
        reduction: r; CMM squeezes C channels to C/r.

    Raises:
        UserError: (a ValueError) ``reduction`` is not an integer of at least 1, or does not divide C.
    """
    return with_cmm(Bottleneck(in_channels, channels, stride), channels, stride, reduction)


def with_cmm(block: Bottleneck, channels: int, stride: int, reduction: int) -> Bottleneck:
    """Add CMM to the block, parallel to its 3x3; raises as ``cmm``."""
    if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
        raise UserError(f"reduction is {reduction!r}; allowed: an integer of at least 1")
    if channels % reduction:
        raise UserError(
            f"width gives a block {channels} channels, which reduction {reduction} of CMM does not divide; choose "
            f"a width that is a multiple of {reduction}, or another reduction"
        )
    block.cmm = CMM(channels, stride, reduction)
    return block
