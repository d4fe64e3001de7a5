"""Compile a network block by block with ``torch.compile``.

Blocks of the same shape share one graph, so that the 16 blocks of STM-50 need 8 graphs. The stem and the head are not
compiled, so that dropout draws the same numbers as in a network that is not compiled.
"""

from __future__ import annotations

import torch

from stm.model.network import VideoResNet

_MODES = 2
"""Training and evaluation have a graph each."""


def compile_blocks(network: VideoResNet) -> None:
    """Compile each block in place, for fixed shapes (every batch is padded to its size). Names of weights stay.

    PyTorch stops compiling a function after 8 compilations, and all blocks of a class share one ``forward``. So this
    raises the limit of the process to the number of graphs that the network can need.
    """
    blocks = network.blocks.values()
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _MODES * len(blocks))
    for block in blocks:
        block.compile(dynamic=False)
