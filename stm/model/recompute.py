"""Gradient checkpointing: trade a second forward pass for the memory of a block's activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *inputs: Any) -> Tensor:
    """Call ``block(*inputs)``, keep only its inputs, and compute the rest again when it is needed.

    Gradients, running statistics and step counts of batch normalisation are equal to those of a
    plain call: the second pass normalises by the batch as the first did, but leaves no trace in the
    running statistics.
    """
    return checkpoint(
        block,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _running_statistics_held(block)),
    )


@contextmanager
def _running_statistics_held(block: nn.Module) -> Iterator[None]:
    # Momentum 0 and not track_running_stats = False: the recomputation must save the same tensors
    # as the first pass.
    layers = [layer for layer in block.modules() if isinstance(layer, _BatchNorm)]
    held = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
            layer.num_batches_tracked = None
        yield
    finally:
        for layer, momentum, num_batches_tracked in held:
            layer.momentum = momentum
            layer.num_batches_tracked = num_batches_tracked
