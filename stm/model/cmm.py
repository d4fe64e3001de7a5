"""CMM, the channel-wise motion module: feature differences in place of optical flow."""

from __future__ import annotations

from torch import Tensor, nn

from stm.model import kernels
from stm.model.time_axis import join_time, plain_feature_difference, split_time


class CMM(nn.Module):
    """Channel-wise motion module: differences of neighbouring frames in C/r channels (paper, section 3.2).

        v    = BN(conv1x1(u))                               C -> C/r
        d[t] = dw3x3(v[t+1]) - v[t]    for t < T            equation 2
        d[T] = 0
        b    = conv1x1(d)                                   C/r -> C
        b    = maxpool2x2(b)           only in a block of stride 2

    One depthwise kernel for all time steps convolves frame t+1 only; frame t is subtracted unchanged. The zeros of
    step T come before the expansion, which has no bias, so that CMM's last output is exactly 0. No normalisation and
    no activation follows the expansion. The convolutions start from PyTorch's default weights.

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
        # ceil_mode matches the output size of the strided 3x3 at odd sizes (7x7 -> 4x4). At even
        # sizes it changes nothing.
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()

    def forward(self, u: Tensor, num_frames: int) -> Tensor:
        """``u: float [N*T, C, H, W]`` -> ``[N*T, C, H/s, W/s]`` (rounded up), which the caller may overwrite."""
        v = self.bn(self.reduce(u))
        return self.pool(self.expand(self.motion(v, num_frames)))


def feature_difference(v: Tensor, weight: Tensor, num_frames: int) -> Tensor:
    """Difference between each frame and the next, after a depthwise 3x3 (paper, equation 2).

        d[t] = dw3x3(v[t+1]) - v[t]    for t < T,           d[T] = 0

    Args:
        v: float ``[N*T, C, H, W]``; the T frames of a clip are consecutive.
        weight: float ``[C, 1, 3, 3]``, one kernel for each channel.
        num_frames: T.

    Returns:
        float ``[N*T, C, H, W]``, channels-last.
    """
    if kernels.takes_kernel(v):
        return join_time(kernels.feature_difference(split_time(v, num_frames), weight))
    return plain_feature_difference(v, weight, num_frames)


class FeatureDifference(nn.Conv2d):
    """``feature_difference`` as a layer, with its own 3x3 kernel for each of ``channels``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, groups=channels, bias=False)

    def forward(self, v: Tensor, num_frames: int) -> Tensor:  # type: ignore[override]
        """``v: float [N*T, C, H, W]`` -> the same shape, channels-last."""
        return feature_difference(v, self.weight, num_frames)
