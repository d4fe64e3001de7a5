"""CSTM only, an ablation of the paper: the channel-wise spatio-temporal module (section 3.1)."""

from __future__ import annotations

from stm.errors import UserError
from stm.model.block import Bottleneck
from stm.model.registry import register
from stm.model.temporal import ChannelwiseTemporalConv, OrdinaryTemporalConv

TEMPORAL_CONVS = {"channelwise": ChannelwiseTemporalConv, "ordinary": OrdinaryTemporalConv}


@register("cstm")
def cstm(
    in_channels: int,
    channels: int,
    stride: int,
    *,
    temporal_conv: str = "channelwise",
    temporal_kernel: int = 3,
) -> Bottleneck:
    """Make a block with CSTM only: a temporal convolution before the 3x3.

    Args:
        temporal_conv: ``channelwise``, or ``ordinary`` as in the paper's ablation.
        temporal_kernel: number of taps of the temporal convolution, odd and at least 3.

    Raises:
        UserError: (a ValueError) a value is not allowed.
    """
    if temporal_conv not in TEMPORAL_CONVS:
        raise UserError(
            f"temporal_conv is {temporal_conv!r}; allowed: one of {', '.join(TEMPORAL_CONVS)}"
        )
    if not (temporal_kernel >= 3 and temporal_kernel % 2):
        raise UserError(
            f"temporal_kernel is {temporal_kernel!r}; allowed: an odd number of at least 3"
        )
    block = Bottleneck(in_channels, channels, stride)
    block.temporal = TEMPORAL_CONVS[temporal_conv](channels, temporal_kernel)
    return block
