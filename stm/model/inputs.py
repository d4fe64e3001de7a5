"""What the network is given, and in which arithmetic: pixels normalised on its device, autocast, cuDNN's settings."""

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
    """uint8 [N, T, H, W, 3] in shared memory -> float32 [N, T, 3, H, W] on the device, ImageNet mean and std.

    uint8 travels, a quarter of the bytes; the result is channels-last in memory, as the network wants it.
    """
    if not clips.flags.writeable:
        clips = clips.copy()  # PyTorch has no read-only tensors
    return normalised(torch.from_numpy(clips).to(device, non_blocking=True))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [N, T, H, W, 3] -> float32 [N, T, 3, H, W] on the same device, as ``normalise``."""
    scale, shift = _scale_and_shift(pixels.device)
    return pixels.permute(0, 1, 4, 2, 3).to(torch.float32).mul_(scale).add_(shift)


@functools.cache
def _scale_and_shift(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """float32 [3, 1, 1] each; kept, because sending them anew would hold up a GPU in every step."""
    with torch.inference_mode(False):  # inference may come first, and training after it
        scale = torch.tensor([1 / (255 * s) for s in IMAGENET_STD], device=device)
        shift = torch.tensor(
            [-m / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], device=device
        )
    return scale.view(3, 1, 1), shift.view(3, 1, 1)


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


def autocast(precision: str, device: torch.device) -> Autocast:
    """The arithmetic of `float32`, `bfloat16`, `float16` or `auto`: bfloat16 on GPUs that have it, else float32."""
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Autocast(device.type, torch.bfloat16 if fast else None)
    dtypes = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return Autocast(device.type, dtypes[precision])


def set_arithmetic(device: torch.device) -> None:
    """The process's settings of a GPU, before its first forward pass.

    cuDNN tries its algorithms on each shape once, which pays because all batches have one shape. TF32 is off: who asks
    for float32 gets it, and who wants speed has `bfloat16`, which `auto` takes.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
