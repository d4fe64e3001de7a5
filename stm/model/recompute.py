"""Gradient checkpointing: compute a block a second time in the backward pass, to save the memory of its activations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, *inputs: Any) -> Tensor:
    """Call ``block(*inputs)``, keep only the inputs, and compute the activations again in the backward pass.

    Gradients, running statistics and step counts of batch normalisation are equal to those of a
    plain call. The second pass uses the batch's statistics again, but does not update the running
    statistics.
    """
    return checkpoint(
        block,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _running_statistics_held(block)),
    )


@contextmanager
def _running_statistics_held(block: nn.Module) -> Iterator[None]:
    # Momentum is 0 because with track_running_stats = False the second pass would not save the same
    # tensors as the first.
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
