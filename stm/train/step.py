"""What a step does to a batch on its device: normalisation, precision, and the rows worth learning from."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stm.config import Precision

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(clips: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 [N, T, H, W, 3] in shared memory -> float32 [N, T, 3, H, W] on the device, ImageNet mean and std.

    uint8 travels, a quarter of the bytes; the result is channels-last in memory, as the network wants it.
    """
    if not clips.flags.writeable:
        clips = clips.copy()  # PyTorch has no read-only tensors
    pixels = torch.from_numpy(clips).to(device, non_blocking=True).permute(0, 1, 4, 2, 3)
    scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=device).view(3, 1, 1)
    shift = torch.tensor(
        [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=device
    )
    return pixels.to(torch.float32).mul_(scale).add_(shift.view(3, 1, 1))


def usable_rows(weights: np.ndarray) -> np.ndarray | None:
    """Which row of the batch each row shows the network: itself, or for weight 0 a copy of one that counts.

    Batch normalisation sees every row, weight or not, so blank clips would shift its statistics. Returns int64 [B],
    or None where no row counts.
    """
    valid = np.flatnonzero(weights > 0)
    if not len(valid):
        return None
    rows = np.arange(len(weights))
    missing = np.flatnonzero(weights <= 0)
    rows[missing] = valid[np.arange(len(missing)) % len(valid)]
    return rows


@dataclass(frozen=True)
class Autocast:
    """The arithmetic of the forward pass."""

    device_type: str
    dtype: torch.dtype | None
    """None is float32."""

    def context(self) -> Any:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    @property
    def scale_gradients(self) -> bool:
        """float16 loses small gradients unless the loss is scaled."""
        return self.dtype == torch.float16


def autocast(precision: Precision, device: torch.device) -> Autocast:
    """Resolve `auto`: bfloat16 on GPUs that have it, float32 elsewhere."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return Autocast(device.type, torch.bfloat16 if fast else None)
    dtypes = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return Autocast(device.type, dtypes[precision])
