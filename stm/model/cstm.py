"""CSTM, the channel-wise spatio-temporal module (paper, section 3.1)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def cstm(
    u: Tensor, num_frames: int, temporal: nn.Module, conv2: nn.Module, bn2: nn.Module
) -> Tensor:
    """Mix along time channel by channel, then along space.

        a = ReLU(BN(conv3x3(temporal(u))))

    A function of layers and not a layer of its own: ``conv2`` and ``bn2`` are ResNet's, which keep
    their place and their name in the bottleneck so that ImageNet weights load. ``conv2`` carries
    the block's stride, so the temporal convolution sees the full resolution.

    Args:
        u: float ``[N*T, C, H, W]``, the output of the block's first 1x1.
        num_frames: T.
        temporal: ``ChannelwiseTemporalConv``, or ``OrdinaryTemporalConv`` for the ablation.
        conv2: 3x3, C to C, stride s.
        bn2: its normalisation.

    Returns:
        float ``[N*T, C, H/s, W/s]`` (rounded up).
    """
    return F.relu(bn2(conv2(temporal(u, num_frames))), inplace=True)
