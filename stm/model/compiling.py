"""Compile a network block by block with ``torch.compile``.

Blocks of one shape share what was compiled for the first of them, so that STM-50 has 8 graphs in place of one of 16
blocks. What lies between and after them stays as it is, so that dropout draws as in a network that is not compiled.
"""

from __future__ import annotations

import torch

from stm.model.network import VideoResNet

_MODES = 2
"""Training and evaluation."""


def compile_blocks(network: VideoResNet) -> None:
    """Compile each block, in place; the names of weights stay. Shapes are constants: every batch is padded to its size.

    PyTorch gives up on a function that it has compiled 8 times, and all blocks of a kind have one ``forward``: the
    limit is raised for this process to what the network can need.
    """
    blocks = network.blocks.values()
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MODES * len(blocks))
    for block in blocks:
        block.compile(dynamic=False)
