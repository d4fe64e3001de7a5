"""All-reduce: processes on the nodes form a group as in training, and must add up the right numbers in time.

gloo between CPUs, nccl between GPUs. Each rank can say how far it has come while it waits for the others, so a group
that does not come together names the ranks that are missing.
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
"""16 MB, of the order of one bucket of DDP's gradients (25 MB)."""

REPETITIONS = 3

_DEATH_KNOWN_S = 2.0
"""Within this time Ray says that a process has died."""

STAGES = ("not started", "loading PyTorch", "joining the group", "adding", "done")


class Rank:
    """One process of the group."""

    def __init__(self) -> None:
        self._stage = 1

    def address(self) -> tuple[str, int]:
        """An address of this node and a free port, where the others find rank 0."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return ray.util.get_node_ip_address(), free.getsockname()[1]

    def stage(self) -> int:
        """Index into ``STAGES``; answered while ``add`` runs."""
        return self._stage

    def add(
        self, rank: int, world_size: int, address: tuple[str, int], backend: str, timeout_s: float
    ) -> float:
        """Join the group and add; returns the least seconds of one all-reduce. Raises where the sum is wrong."""
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
    """The node of each rank, and whether they use GPUs: one a GPU, else one a node with CPUs, and at least 2."""
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
    """Form the group, add, and say how fast it was or who was missing."""
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
        # A rank gives up a little before we do, and then says why itself.
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
    """Seconds of the ranks that are done."""
    died: dict[int, str] = field(default_factory=dict)
    raised: dict[int, str] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)


def _watch(tasks: list[Any], until: float) -> _Seen:
    """Wait for the ranks. The first failure ends it, as the others can only wait in vain."""
    import ray

    seen = _Seen()
    rank_of = {task: rank for rank, task in enumerate(tasks)}
    waiting = list(tasks)
    while waiting and not seen.died and not seen.raised and time.monotonic() < until:
        ready, waiting = ray.wait(waiting, timeout=max(0.1, until - time.monotonic()))
        _sort(ready, rank_of, seen)
    if seen.raised and waiting:
        # A neighbour that lost its peer may be heard before the peer's own death is known.
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
    except Exception:  # it hangs so that it cannot even answer, or was never started
        return 0


_NETWORK = (
    "let the nodes reach each other on every port; where a node has several networks, name the one to use in "
    "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME; its host name must not resolve to 127.0.0.1"
)


def _no_start(use_gpu: bool, places: list[Node], deadline_s: float) -> Finding:
    if use_gpu:
        return warning(
            "all-reduce",
            f"not checked: no GPU of {places[0].name} became free within {deadline_s:g} s",
            "run it when no job holds the GPUs",
        )
    reason = f"no process started within {deadline_s:g} s"
    return when_lost(places, {0: reason})


def when_lost(places: list[Node], lost: dict[int, str]) -> Finding:
    """Ranks that died or raised."""
    said = {f"rank {rank} on {places[rank].name}": why for rank, why in lost.items()}
    return fails("all-reduce", listed(said), _NETWORK)


def when_raised(places: list[Node], raised: dict[int, str], stages: dict[int, int]) -> Finding:
    """Ranks that gave up waiting are not to blame where another has not come as far as they."""
    reached = min(stages[rank] for rank in raised)
    behind = {rank: stage for rank, stage in stages.items() if stage < reached}
    if behind:
        return when_late(
            places, behind, f"the others gave up waiting ({next(iter(raised.values()))})"
        )
    return when_lost(places, raised)


def when_late(places: list[Node], stages: dict[int, int], said: str) -> Finding:
    """The group did not come together; the ranks that are behind the others are named."""
    behind = min(stages.values())
    named = {
        f"rank {rank} on {places[rank].name}": STAGES[stage]
        for rank, stage in stages.items()
        if stage == behind
    }
    return fails("all-reduce", f"{said}; still at: {listed(named)}", _NETWORK)


def when_done(places: list[Node], backend: str, seconds: float) -> Finding:
    """The sums are right."""
    num_nodes = len({node.id for node in places})
    said = f"{counted(len(places), 'rank')} on {counted(num_nodes, 'node')}, {backend}"
    speed = NUM_FLOATS * 4 / 1e6 / seconds
    said += f": right, 16 MB in {1000 * seconds:.0f} ms ({speed:.0f} MB/s)"
    return ok("all-reduce", said)
