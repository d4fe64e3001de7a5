"""CMM alone: the channel-wise motion module (paper, section 3.2) beside ResNet's 3x3.

The paper does not say what stands beside CMM alone; this keeps the ImageNet weights in use.
"""

from __future__ import annotations

from stm.errors import UserError
from stm.model.block import Bottleneck
from stm.model.cmm import CMM
from stm.model.registry import register


@register("cmm")
def cmm(in_channels: int, channels: int, stride: int, *, reduction: int = 16) -> Bottleneck:
    """CMM alone: feature differences beside the plain 3x3.

    Args:
        reduction: r; CMM squeezes C channels to C / r.
    """
    return with_cmm(Bottleneck(in_channels, channels, stride), channels, stride, reduction)


def with_cmm(block: Bottleneck, channels: int, stride: int, reduction: int) -> Bottleneck:
    """The block, with CMM beside its 3x3."""
    if isinstance(reduction, bool) or not isinstance(reduction, int) or reduction < 1:
        raise UserError(f"reduction is {reduction!r}; allowed: an integer of at least 1")
    if channels % reduction:
        raise UserError(
            f"width makes blocks of {channels} channels, which CMM cannot squeeze by reduction {reduction}; "
            f"allowed: a multiple of {reduction}, or another reduction"
        )
    block.cmm = CMM(channels, stride, reduction)
    return block
