"""What a step does to a batch on its device: normalisation, precision, rows worth learning from, gradients."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stm.config import Precision
from stm.train.optim import weighted_loss_sum

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


def set_arithmetic(device: torch.device) -> None:
    """The process's settings of a GPU, before its first step.

    cuDNN tries its algorithms on each shape once, which pays because all batches have one shape. TF32 is off: who asks
    for float32 gets it, and who wants speed has `bfloat16`, which `auto` takes.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@dataclass(frozen=True)
class Batch:
    """One rank's share of a step, on its device."""

    clips_NTCHW: torch.Tensor
    labels_N: torch.Tensor
    weights_N: torch.Tensor
    """float32, 0 where nothing is to be learnt."""
    partners_N: torch.Tensor | None = None
    """Labels of the clips mixed in (``stm.train.mixing``)."""
    shares_N: torch.Tensor | None = None
    """float32: how much of each target is its own label, where there are partners."""

    def parts(self, number: int) -> list[Batch]:
        """The batch in ``number`` parts of nearly equal size."""
        fields = (self.clips_NTCHW, self.labels_N, self.weights_N, self.partners_N, self.shares_N)
        cut = [
            [None] * number if values is None else values.tensor_split(number) for values in fields
        ]
        return [Batch(*part) for part in zip(*cut, strict=True)]


def gradients(
    model: Any,
    batch: Batch,
    global_weight: torch.Tensor,
    *,
    world_size: int = 1,
    accumulate: int = 1,
    label_smoothing: float = 0.0,
    autocast: Autocast | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> torch.Tensor:
    """Backpropagate the loss of a batch; on each rank the gradient becomes that of the *global* mean loss.

    The loss is a sum over sample weights divided by ``global_weight``, the weight of all ranks' batches (0-dim). DDP
    averages gradients over ranks, hence the factor ``world_size``. With ``accumulate`` the batch is taken in parts, and
    ranks exchange gradients once.

    Returns float64 [3]: loss sum, weight and number of right answers of this rank.
    """
    sums = torch.zeros(3, dtype=torch.float64, device=batch.labels_N.device)
    parts = batch.parts(accumulate)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        alone = contextlib.nullcontext() if last or world_size == 1 else model.no_sync()
        with alone:
            with autocast.context() if autocast else contextlib.nullcontext():
                logits_NK = model(part.clips_NTCHW)
            loss_sum = _loss_sum(logits_NK, part, label_smoothing)
            loss = loss_sum * (world_size / global_weight.clamp(min=1))
            (scaler.scale(loss) if scaler else loss).backward()
        with torch.no_grad():
            correct = ((logits_NK.argmax(1) == part.labels_N) * part.weights_N).sum()
            sums += torch.stack([loss_sum.detach(), part.weights_N.sum(), correct]).double()
    return sums


def _loss_sum(logits_NK: torch.Tensor, batch: Batch, label_smoothing: float) -> torch.Tensor:
    if batch.partners_N is None or batch.shares_N is None:
        return weighted_loss_sum(logits_NK, batch.labels_N, batch.weights_N, label_smoothing)
    own_N, other_N = batch.weights_N * batch.shares_N, batch.weights_N * (1 - batch.shares_N)
    return weighted_loss_sum(logits_NK, batch.labels_N, own_N, label_smoothing) + weighted_loss_sum(
        logits_NK, batch.partners_N, other_N, label_smoothing
    )


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
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return Autocast(device.type, torch.bfloat16 if fast else None)
    dtypes = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return Autocast(device.type, dtypes[precision])
