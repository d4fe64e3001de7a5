"""Mixup (Zhang et al., ICLR 2018) and cutmix (Yun et al., ICCV 2019) for clips: both blend pairs of samples."""

from __future__ import annotations

import numpy as np
import torch


def mix_pairs(
    clips_NTCHW: torch.Tensor,
    labels_N: torch.Tensor,
    *,
    mixup: float,
    cutmix: float,
    generator: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Blend each clip with another of the batch.

    Args:
        clips_NTCHW: float [N, T, 3, H, W]; not modified.
        labels_N: int64 [N].
        mixup: alpha of the Beta distribution from which the share is drawn; 0 turns it off.
        cutmix: as ``mixup``. If both are on, a fair coin decides for the whole batch.
        generator: source of every draw.

    Returns:
        Clips of the same shape; int64 [N], the labels of the partners; float32 [N], the share of the own label.
    """
    num_clips, (height, width) = len(labels_N), clips_NTCHW.shape[-2:]
    partners = torch.from_numpy(generator.permutation(num_clips))
    if labels_N.is_cuda:  # a copy from pageable memory would wait for the previous step
        partners = partners.pin_memory().to(labels_N.device, non_blocking=True)
    paste = cutmix > 0 and (mixup == 0 or generator.random() < 0.5)
    alpha = cutmix if paste else mixup
    share = generator.beta(alpha, alpha)
    if paste:
        top, bottom, left, right = _box(height, width, share, generator)
        mixed = clips_NTCHW.clone()
        mixed[..., top:bottom, left:right] = clips_NTCHW[partners][..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    else:
        mixed = torch.lerp(clips_NTCHW[partners], clips_NTCHW, float(share))
    return mixed, labels_N[partners], torch.full_like(labels_N, share, dtype=torch.float32)


def _box(
    height: int, width: int, share: float, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """Rows and columns of a box that covers about 1 - share of the picture; the same in all frames of a clip."""
    side = np.sqrt(1 - share)
    middle_y, middle_x = generator.random() * height, generator.random() * width
    top, bottom = (round(middle_y + sign * side * height / 2) for sign in (-1, 1))
    left, right = (round(middle_x + sign * side * width / 2) for sign in (-1, 1))
    return max(top, 0), min(bottom, height), max(left, 0), min(right, width)
