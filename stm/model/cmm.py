"""CMM, the channel-wise motion module: feature differences in place of optical flow."""

from __future__ import annotations

from torch import Tensor, nn

from stm.model import kernels
from stm.model.time_axis import join_time, plain_feature_difference, split_time


class CMM(nn.Module):
    """What moved between a frame and the next, in C/r channels (paper, section 3.2, equation 2).

        v    = BN(conv1x1(u))                               C -> C/r
        d[t] = dw3x3(v[t+1]) - v[t]    for t < T,           d[T] = 0
        b    = conv1x1(d)                                   C/r -> C
        b    = maxpool2x2(b)           where the block has stride 2

    Only frame t+1 is convolved, by one depthwise kernel for all time steps; frame t is subtracted
    as it is. The last step is padded before the expansion, which has no bias, so CMM's last output
    is exactly 0. Neither normalisation nor activation follows. Its convolutions keep the
    framework's initial weights.

    Args:
        channels: C.
        stride: the block's stride, 1 or 2.
        reduction: r, 16 in the paper.
    """

    def __init__(self, channels: int, stride: int = 1, reduction: int = 16) -> None:
        super().__init__()
        reduced = channels // reduction
        self.reduce = nn.Conv2d(channels, reduced, 1, bias=False)
        self.bn = nn.BatchNorm2d(reduced)
        self.motion = FeatureDifference(reduced)
        self.expand = nn.Conv2d(reduced, channels, 1, bias=False)
        # ceil_mode follows the strided 3x3 beside it at odd sizes (7x7 -> 4x4) and changes nothing
        # at even ones.
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, u: Tensor, num_frames: int) -> Tensor:
        """``u: [N*T, C, H, W]`` -> ``[N*T, C, H/s, W/s]`` (rounded up), the caller's to change."""
        v = self.bn(self.reduce(u))
        return self.pool(self.expand(self.motion(v, num_frames)))


def feature_difference(v: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """What moved between a frame and the next.

        d[t] = dw3x3(v[t+1]) - v[t]    for t < T,           d[T] = 0

    Args:
        v: float ``[N*T, C, H, W]``, the T frames of a clip in a row.
        weight: float ``[C, 1, 3, 3]``.
        num_frames: T.

    Returns:
        float ``[N*T, C, H, W]``, channels-last.
    """
    if kernels.takes_kernel(v):
        return join_time(kernels.feature_difference(split_time(v, num_frames), weight))
    return plain_feature_difference(v, weight, num_frames)


class FeatureDifference(nn.Conv2d):
    """``feature_difference`` as a layer, with one 3x3 kernel for each of ``channels``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, v: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``v: [N*T, C, H, W]`` -> the same shape, channels-last."""
        return feature_difference(v, self.weight, num_frames)
