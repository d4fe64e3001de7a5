"""The streams of a world: which ranks share one, where each runs, and how they end.

Each group of ranks has its own stream (``stm.data.stream.graph``). Its executor runs on the node of its first rank,
and its decoding tasks prefer that node. Each executor may use up to twice its share of the CPUs; requests for more
CPUs than are free wait in Ray's queue. A slow stream can thus use CPUs that streams with full buffers do not request.

If the process of a stream dies, its ranks end. Ray Train then restarts all ranks and all streams from the last
checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from stm.config import RANKS_PER_STREAM
from stm.data.stream.graph import StreamSpec, Validation, build_stream
from stm.data.stream.plan import Position
from stm.plural import counted
from stm.ray_compat import end_together

SHARD = "clips"
"""The dataset name under which a rank gets its part of its stream from Ray Train."""


def groups(world_size: int, num_streams: int) -> list[range]:
    """The ranks of each stream: consecutive ranks, in groups whose sizes differ by at most 1."""
    ends = [world_size * number // num_streams for number in range(num_streams + 1)]
    return [range(first, end) for first, end in itertools.pairwise(ends)]


def how_many(world_size: int, wanted: int | None, free_cpus: float, cpus_per_task: float) -> int:
    """Number of streams: ``wanted``, or one per `RANKS_PER_STREAM` ranks; at most one per rank and decoding CPU."""
    num_streams = -(-world_size // RANKS_PER_STREAM) if wanted is None else wanted
    return max(1, min(num_streams, world_size, int(free_cpus / cpus_per_task + 1e-6)))


def split(
    spec: StreamSpec,
    world_size: int,
    start: Position = Position(),
    validation: Validation | None = None,
    num_streams: int = 1,
    node_ids: Sequence[str] | None = None,
) -> list[Any]:
    """A ``ray.data.DataIterator`` for each rank, from ``num_streams`` streams; ``node_ids`` is the node of each rank.

    The streams end with the calling process.
    """
    splits = []
    for ranks in groups(world_size, num_streams):
        stream = build_stream(spec, world_size, start, validation, ranks, num_streams)
        stream.set_name(SHARD)
        node_id = node_ids[ranks.start] if node_ids and num_streams > 1 else None
        splits.append(_split_on(node_id, stream, len(ranks)))
    end_together(splits)
    return [shard for shards in splits for shard in shards]


class _Dealer:
    """Actor that splits a dataset on its own node, because the executor runs where the dataset is split."""

    def split(self, stream: Any, count: int) -> list[Any]:
        return list(stream.streaming_split(count, equal=True))


def _split_on(node_id: str | None, stream: Any, count: int) -> list[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if node_id in (None, ray.get_runtime_context().get_node_id()):
        return list(stream.streaming_split(count, equal=True))
    remote: Any = ray.remote
    there = NodeAffinitySchedulingStrategy(str(node_id), soft=False)
    dealer = remote(num_cpus=0, scheduling_strategy=there)(_Dealer).remote()
    shards: list[Any] = ray.get(dealer.split.remote(stream, count))
    for shard in shards:
        shard.dealer = (
            dealer  # the executor lives as long as this actor, which lives as long as its handle
        )
    return shards


def plan_data_config(
    train: StreamSpec,
    validation: Validation | None,
    latest_position: Callable[[], Position],
    cpus_per_worker: float,
    num_streams: int | None = None,
) -> Any:
    """A ``ray.train.DataConfig`` that builds the streams for the current world size at every (re)start.

    Ray calls ``configure`` with the actual world size each time it starts the workers. It then calls
    ``latest_position``, so an interrupted run resumes from its last checkpoint on any number of workers.
    With ``num_streams`` None, `how_many` decides.

    Raises ``RuntimeError`` with the CPU counts if the workers leave no CPU for decoding: they would wait for ever.
    """
    from ray.train import DataConfig

    class PlanDataConfig(DataConfig):
        def configure(
            self,
            datasets: Any,
            world_size: int,
            worker_handles: Any = None,
            worker_node_ids: Sequence[str] | None = None,
            **_: Any,
        ) -> list[dict[str, Any]]:
            del datasets  # a placeholder that gives Ray Train the name of the shard
            del worker_handles
            free = _free_cpus(world_size, cpus_per_worker, train.cpus_per_task)
            count = how_many(world_size, num_streams, train.max_cpus or free, train.cpus_per_task)
            shards = split(train, world_size, latest_position(), validation, count, worker_node_ids)
            return [{SHARD: shard} for shard in shards]

    return PlanDataConfig()


def _free_cpus(world_size: int, cpus_per_worker: float, cpus_per_task: float) -> float:
    """CPUs left for decoding now; an elastic run uses the nodes that are up, so the cluster may have changed."""
    import ray

    cpus = ray.cluster_resources().get("CPU", 0.0)
    left = cpus - world_size * cpus_per_worker
    if left < cpus_per_task - 1e-6:
        raise RuntimeError(
            f"{counted(world_size, 'worker')} x {cpus_per_worker:g} CPU leave {left:g} of the cluster's {cpus:g} CPU, "
            f"and a decoding task needs {cpus_per_task:g}: keep training to nodes of its own with "
            "--train.resources_per_worker, or add nodes"
        )
    return left
