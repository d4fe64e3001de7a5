"""One step of a network, in training and in each form of inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stm.model.compiling import compile_blocks
from stm.model.folding import FoldedNetwork
from stm.model.inputs import Autocast
from stm.model.network import VideoResNet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_step(
    mode: str, model: nn.Module, clips: Tensor, precision: str, compiled: bool = False
) -> tuple[Callable[[], Any], int]:
    """Return a function that runs one step in this mode, and the bytes that stay allocated between steps."""
    dtype = PRECISIONS[precision]
    autocast = Autocast(clips.device.type, None if dtype == torch.float32 else dtype)
    if mode == "train":
        return _training(model, clips, autocast, compiled)
    if mode == "folded":
        return _folded(model, clips, autocast, compiled)
    return _inference(model, clips, autocast, compiled and mode != "packed")


def _training(
    model: nn.Module, clips: Tensor, autocast: Autocast, compiled: bool
) -> tuple[Callable[[], Any], int]:
    model.train()
    labels = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)
    on_gpu = clips.device.type == "cuda"
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=on_gpu or None
    )
    forward = _compiled(model, compiled)

    def step() -> None:
        with autocast.context():
            loss = F.cross_entropy(forward(clips).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    momentum = sum(weight.nbytes for weight in model.parameters())
    return step, bytes_of(model) + momentum


def _inference(
    model: nn.Module, clips: Tensor, autocast: Autocast, compiled: bool
) -> tuple[Callable[[], Any], int]:
    forward = _compiled(model.eval(), compiled)

    def step() -> Tensor:
        with torch.inference_mode(), autocast.context():
            return forward(clips)

    return step, bytes_of(model)


def _folded(
    model: nn.Module, clips: Tensor, autocast: Autocast, compiled: bool
) -> tuple[Callable[[], Any], int]:
    # The weights get the type of the arithmetic, so that nothing is converted in a step.
    dtype = autocast.dtype or torch.float32
    return _inference(
        model.to(dtype), clips.to(dtype), Autocast(autocast.device_type, None), compiled
    )


def _compiled(model: nn.Module, compiled: bool) -> Callable[[Tensor], Tensor]:
    if compiled:
        network = model.network if isinstance(model, FoldedNetwork) else model
        assert isinstance(network, VideoResNet)
        compile_blocks(network)
    return model


def bytes_of(model: nn.Module) -> int:
    """Return the size of its weights and statistics in bytes."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())
