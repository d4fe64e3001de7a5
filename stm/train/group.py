"""This rank among all ranks, and its connection to the driver."""

from __future__ import annotations

import os
from typing import Any

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from stm.train.events import Event


class Group:
    """``rank`` of ``world_size``, on ``device``. All ranks must call the collective methods `gather` and `sum`."""

    def __init__(self, board: Any) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = ray.train.torch.get_device()
        self._local_world_size = context.get_local_world_size()
        self._board = board

    def num_threads(self, wanted: int | None) -> int:
        """Threads for PyTorch: ``wanted``, else 1 on a GPU, else this rank's share of the node's cores."""
        if wanted:
            return wanted
        if self.device.type == "cuda":
            return 1
        return max(1, (os.cpu_count() or 1) // self._local_world_size)

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in rank order."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def sum(self, table: torch.Tensor) -> torch.Tensor:
        """Sum ``table`` over all ranks, in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(table)
        return table

    def one_row_a_rank(self, values: list[float]) -> torch.Tensor:
        """float64 [world size, len(values)] with ``values`` in this rank's row, so that `sum` gives a row per rank."""
        rows = torch.zeros(self.world_size, len(values), dtype=torch.float64, device=self.device)
        rows[self.rank] = torch.tensor(values, dtype=torch.float64)
        return rows

    def post(self, event: Event) -> None:
        """Send the driver an event, on rank 0 only."""
        if self.rank == 0 and self._board is not None:
            self._board.post.remote(event)
