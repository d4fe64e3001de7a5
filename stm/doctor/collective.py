"""Check all-reduce: processes on the nodes form a group as in training, and must compute the right sum in time.

The backend is gloo between CPUs and nccl between GPUs. Each rank can report its stage while it waits for the others, so
if the group is not complete, the finding names the missing ranks.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from stm.doctor.finding import Finding, fails, first_line, ok, warning
from stm.doctor.nodes import Node, listed, on
from stm.plural import counted

NUM_FLOATS = 4_000_000
"""Size of an all-reduce: 16 MB, similar to one bucket of DDP's gradients (25 MB)."""

REPETITIONS = 3

_DEATH_KNOWN_S = 2.0
"""Seconds within which Ray reports the death of a process."""

STAGES = ("not started", "loading PyTorch", "joining the group", "adding", "done")


class Rank:
    """One process of the group."""

    def __init__(self) -> None:
        self._stage = 1

    def address(self) -> tuple[str, int]:
        """Return this node's address and a free port, at which the others find rank 0."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def stage(self) -> int:
        """Return an index into ``STAGES``, also while ``add`` runs."""
        return self._stage

    def add(
        self, rank: int, world_size: int, address: tuple[str, int], backend: str, timeout_s: float
    ) -> float:
        """Join the group and add; return the shortest all-reduce (s). Raises ``ArithmeticError`` for a wrong sum."""
        import torch
        from torch import distributed

        device = torch.device("cuda" if backend == "nccl" else "cpu")
        self._stage = 2
        distributed.init_process_group(
            backend,
            init_method=f"tcp://{address[0]}:{address[1]}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout_s),
        )
        self._stage = 3
        took = []
        for _ in range(REPETITIONS):
            numbers = torch.full((NUM_FLOATS,), float(rank + 1), device=device)
            begun = time.monotonic()
            distributed.all_reduce(numbers)
            expected = world_size * (world_size + 1) / 2
            if not bool((numbers == expected).all()):
                raise ArithmeticError(f"the sum is {numbers[0].item()}, not {expected}")
            took.append(time.monotonic() - begun)
        distributed.destroy_process_group()
        self._stage = 4
        return min(took)


def ranks_on(nodes: Sequence[Node], workers: int | None) -> tuple[list[Node], bool]:
    """Return the node of each rank, and whether they use GPUs: one per GPU, else one per node with CPUs, at least 2."""
    with_gpus = [node for node in nodes for _ in range(node.gpus)]
    if with_gpus:
        return with_gpus[: workers or len(with_gpus)], True
    working = [node for node in nodes if node.cpus > 0] or list(nodes)
    count = workers or max(2, len(working))
    return [working[rank % len(working)] for rank in range(count)], False


def check(
    nodes: Sequence[Node],
    workers: int | None,
    deadline_s: float,
    rank_class: type[Rank] = Rank,
) -> Finding:
    """Form the group and add; report the speed, or the ranks that failed."""
    import ray

    places, use_gpu = ranks_on(nodes, workers)
    backend = "nccl" if use_gpu else "gloo"
    until = time.monotonic() + deadline_s
    remote: Any = ray.remote(rank_class)
    options = {"max_restarts": 0, "max_concurrency": 2, "num_gpus": int(use_gpu)}
    environment = {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    ranks = [remote.options(**on(node, **options, **environment)).remote() for node in places]
    try:
        master = ranks[0].address.remote()
        if not ray.wait([master], timeout=max(1.0, until - time.monotonic()))[0]:
            return _no_start(use_gpu, places, deadline_s)
        try:
            address = ray.get(master)
        except Exception as error:
            return when_lost(places, {0: first_line(error)})
        # A rank times out a little earlier than this process, and then reports the reason itself.
        timeout_s = max(1.0, 0.8 * (until - time.monotonic()))
        tasks = [
            actor.add.remote(rank, len(ranks), address, backend, timeout_s)
            for rank, actor in enumerate(ranks)
        ]
        seen = _watch(tasks, until)
        if seen.died:
            return when_lost(places, seen.died)
        stages = {rank: _stage(ranks[rank]) for rank in (*seen.raised, *seen.waiting)}
        if seen.raised:
            return when_raised(places, seen.raised, stages)
        if seen.waiting:
            return when_late(places, stages, f"not done within {deadline_s:g} s")
        return when_done(places, backend, max(seen.took))
    finally:
        for actor in ranks:
            ray.kill(actor)


@dataclass
class _Seen:
    took: list[float] = field(default_factory=list)
    """Seconds of the ranks that have finished."""
    died: dict[int, str] = field(default_factory=dict)
    raised: dict[int, str] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)


def _watch(tasks: list[Any], until: float) -> _Seen:
    """Wait for the ranks until the first failure, after which the others would wait for nothing."""
    import ray

    seen = _Seen()
    rank_of = {task: rank for rank, task in enumerate(tasks)}
    waiting = list(tasks)
    while waiting and not seen.died and not seen.raised and time.monotonic() < until:
        ready, waiting = ray.wait(waiting, timeout=max(0.1, until - time.monotonic()))
        _sort(ready, rank_of, seen)
    if seen.raised and waiting:
        # A neighbour of a dead rank may report its error before the death itself is known.
        ready, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_DEATH_KNOWN_S)
        _sort(ready, rank_of, seen)
    seen.waiting = [rank_of[task] for task in waiting]
    return seen


def _sort(ready: list[Any], rank_of: dict[Any, int], seen: _Seen) -> None:
    import ray

    for task in ready:
        try:
            seen.took.append(ray.get(task))
        except ray.exceptions.RayActorError:
            seen.died[rank_of[task]] = "its process died"
        except Exception as error:
            seen.raised[rank_of[task]] = first_line(error)


def _stage(actor: Any) -> int:
    import ray

    try:
        return int(ray.get(actor.stage.remote(), timeout=2.0))
    except Exception:  # it hangs and cannot answer, or was never started
        return 0


_NETWORK = (
    "let the nodes reach each other on every port; if a node has several networks, name the one to use in "
    "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME; its host name must not resolve to 127.0.0.1"
)


def _no_start(use_gpu: bool, places: list[Node], deadline_s: float) -> Finding:
    if use_gpu:
        return warning(
            "all-reduce",
            f"not checked: no GPU of {places[0].name} became free within {deadline_s:g} s",
            "run this when no job uses the GPUs",
        )
    reason = f"no process started within {deadline_s:g} s"
    return when_lost(places, {0: reason})


def when_lost(places: list[Node], lost: dict[int, str]) -> Finding:
    """Report ranks that died or raised an error."""
    said = {f"rank {rank} on {places[rank].name}": why for rank, why in lost.items()}
    return fails("all-reduce", listed(said), _NETWORK)


def when_raised(places: list[Node], raised: dict[int, str], stages: dict[int, int]) -> Finding:
    """Report the ranks that raised, or, if others are at an earlier stage, those, for which the first ones waited."""
    reached = min(stages[rank] for rank in raised)
    behind = {rank: stage for rank, stage in stages.items() if stage < reached}
    if behind:
        return when_late(
            places, behind, f"the others gave up waiting ({next(iter(raised.values()))})"
        )
    return when_lost(places, raised)


def when_late(places: list[Node], stages: dict[int, int], said: str) -> Finding:
    """Report the ranks at the earliest stage, because the group is not complete."""
    behind = min(stages.values())
    named = {
        f"rank {rank} on {places[rank].name}": STAGES[stage]
        for rank, stage in stages.items()
        if stage == behind
    }
    return fails("all-reduce", f"{said}; still at: {listed(named)}", _NETWORK)


def when_done(places: list[Node], backend: str, seconds: float) -> Finding:
    """Report that the sums are right, and the speed."""
    num_nodes = len({node.id for node in places})
    said = f"{counted(len(places), 'rank')} on {counted(num_nodes, 'node')}, {backend}"
    speed = NUM_FLOATS * 4 / 1e6 / seconds
    said += f": right, 16 MB in {1000 * seconds:.0f} ms ({speed:.0f} MB/s)"
    return ok("all-reduce", said)
