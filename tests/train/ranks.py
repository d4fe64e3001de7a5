"""Ranks of PyTorch, each in a process of its own, without Ray."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_ranks(
    world_size: int, folder: object, function: Callable[..., None], *arguments: Any
) -> None:
    """``function(rank, *arguments)`` on every rank of a group, which meets in ``folder``; raises what one raises."""
    mp.start_processes(
        _rank,
        (world_size, str(folder), function, arguments),
        nprocs=world_size,
        start_method="spawn",
    )


def _rank(rank: int, world_size: int, folder: str, function: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meet-{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    function(rank, *arguments)
    dist.barrier()
    # A thread of gloo's may still run when the interpreter takes itself down, which then ends with SIGABRT (PyTorch
    # 2.13: 2 of 12 runs of tests/train/test_gradients.py on 2 cores).
    os._exit(0)
