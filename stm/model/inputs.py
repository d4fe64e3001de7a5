"""Prepare the input and the arithmetic of the network: pixel normalisation, autocast, and settings of cuDNN."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(clips: np.ndarray, device: torch.device) -> torch.Tensor:
    """Normalise clips by ImageNet's mean and standard deviation, on the device.

    uint8 [N, T, H, W, 3] in shared memory -> float32 [N, T, 3, H, W], channels-last in memory, which is the network's
    format. The copy to the device is uint8, a quarter of the bytes of float32.
    """
    if not clips.flags.writeable:
        clips = clips.copy()  # PyTorch has no read-only tensors
    return normalised(torch.from_numpy(clips).to(device, non_blocking=True))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """``normalise`` for pixels on the device: uint8 [N, T, H, W, 3] -> float32 [N, T, 3, H, W], channels-last."""
    scale, shift = _scale_and_shift(pixels.device)
    return pixels.permute(0, 1, 4, 2, 3).to(torch.float32).mul_(scale).add_(shift)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Two tensors, float32 [3, 1, 1]. They are cached, because sending them in every step would delay a GPU."""
    with torch.inference_mode(False):  # training may follow inference in this process
        scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=device)
        shift = torch.tensor(
            [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=device
        )
    return scale.view(3, 1, 1), shift.view(3, 1, 1)


@dataclass(frozen=True)
class Autocast:
    """The data type in which the forward pass computes."""

    device_type: str
    dtype: torch.dtype | None
    """None means float32."""

    def context(self) -> Any:
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device_type, dtype=self.dtype)

    @property
    def scale_gradients(self) -> bool:
        """Whether the loss must be scaled: float16 rounds small gradients to 0."""
        return self.dtype == torch.float16


def autocast(precision: str, device: torch.device) -> Autocast:
    """Return the arithmetic for `float32`, `bfloat16`, `float16` or `auto` (bfloat16 on GPUs with it, else float32)."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Autocast(device.type, torch.bfloat16 if fast else None)
    dtypes = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return Autocast(device.type, dtypes[precision])


def set_arithmetic(device: torch.device) -> None:
    """Set PyTorch's GPU options for this process, before the first forward pass. Does nothing for a CPU.

    cuDNN benchmarks its algorithms once for each shape, which is worth it because all batches have one shape. TF32 is
    off, so that `float32` means float32. For speed there is `bfloat16`, which `auto` selects.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
