"""The STM block: CSTM and CMM in parallel (paper, section 3.3)."""

from __future__ import annotations

from torch import nn

from stm.errors import UserError
from stm.model.block import EXPANSION, Bottleneck
from stm.model.registry import register
from stm.model.variants.cmm import with_cmm
from stm.model.variants.cstm import cstm

FUSIONS = ("sum", "concat")


@register("stm")
def stm(
    in_channels: int,
    channels: int,
    stride: int,
    *,
    fusion: str = "sum",
    temporal_conv: str = "channelwise",
    temporal_kernel: int = 3,
    reduction: int = 16,
) -> Bottleneck:
    """Make the paper's block: CSTM and CMM in parallel.

    Args:
        fusion: how the two outputs are joined: ``sum``, or ``concat`` as in the paper's ablation.
        temporal_conv, temporal_kernel: as in ``cstm``.
        reduction: as in ``cmm``.

    Raises:
        UserError: (a ValueError) a value is not allowed.
    """
    if fusion not in FUSIONS:
        raise UserError(f"fusion is {fusion!r}; allowed: one of {', '.join(FUSIONS)}")
    block = cstm(
        in_channels,
        channels,
        stride,
        temporal_conv=temporal_conv,
        temporal_kernel=temporal_kernel,
    )
    block = with_cmm(block, channels, stride, reduction)
    if fusion == "concat":
        conv3_cmm = nn.Conv2d(channels, EXPANSION * channels, 1, bias=False)
        nn.init.kaiming_normal_(conv3_cmm.weight, mode="fan_out", nonlinearity="relu")
        block.conv3_cmm = conv3_cmm
    return block
