"""How fast a training runs on G GPUs: compute, all-reduce, network and supply of clips (docs/scaling.md).

Symbols, as in docs/scaling.md:

    G   GPUs                          k   clips of a step on one GPU        b   bytes a clip
    g   GPUs of a GPU node            t   seconds a step takes one GPU alone, k / rate
    n   GPU nodes                     S   bytes of the gradients            B   bytes a second of a node's network
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Annotated, Any

from stm.bounds import Bounds
from stm.config import RANKS_PER_STREAM, Count, NotNegative, Share
from stm.errors import UserError
from stm.planning.prices import NodeType
from stm.planning.rates import Rates
from stm.plural import counted


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """Assumptions, which are not measured; each is printed with the plan."""

    decode_headroom: Annotated[float, Bounds(ge=1)] = 1.2
    """Factor by which to multiply the number of decoding cores that the mean rate needs, because videos differ and
    tasks have to start."""
    cpus_per_worker: NotNegative = 1.0
    """CPUs that each training worker reserves (`train.cpus_per_worker`)."""
    network_share: Annotated[float, Bounds(ge=0.01, le=1)] = 0.7
    """Share of the network's nominal rate that a flow reaches."""
    overlap: Share = 0.5
    """Share of a step that hides the all-reduce: the backward pass without its first bucket."""
    hop_us: NotNegative = 20.0
    """Microseconds from one rank of the ring to the next, for the smallest message."""
    jitter: Share = 0.03
    """Standard deviation of a rank's step time, as a share of it; each step waits for the slowest rank."""
    stream_clips_per_s: Annotated[float, Bounds(ge=1)] = 3000.0
    """Largest rate of one stream, clips/s, if no file of `stm bench scale` gives it (docs/benchmarks.md)."""
    ranks_per_stream: Count = RANKS_PER_STREAM
    """GPUs that share one stream (`data.streams` null)."""


@dataclass(frozen=True)
class Speed:
    """One point of the curve."""

    gpus: int
    gpu_nodes: int
    cpu_nodes: int
    step_s: float
    clips_per_s: float
    efficiency: float
    """Of G times one GPU alone."""
    network_mb_s: float
    """Into one GPU node: clips and gradients, at this speed."""
    limit: str
    """What it is that a faster one of would help most: `gpu`, `stragglers`, `all-reduce`, `network`, `decode`,
    `streams`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            key: float(f"{value:.5g}") if isinstance(value, float) else value
            for key, value in vars(self).items()
        }


def decode_cores_per_gpu(rates: Rates, headroom: float, core_speed: float = 1.0) -> float:
    """CPUs that must decode for one GPU to have its clips: headroom x GPU's rate / core's rate."""
    return headroom * rates.train_clips_per_s_gpu / (rates.decode_clips_per_s_core * core_speed)


def cpu_nodes_needed(
    gpus: int, gpu: NodeType, cpu: NodeType, rates: Rates, assumed: Assumptions
) -> int:
    """CPU nodes for ``gpus`` GPUs: what the CPUs left on the GPU nodes do not decode."""
    wanted = assumed.decode_headroom * gpus * rates.train_clips_per_s_gpu
    missing = wanted - _own_supply(gpus, gpu, rates, assumed)
    one_node = cpu.cpus * rates.decode_clips_per_s_core * cpu.core_speed
    return max(0, math.ceil(missing / one_node - 1e-9))


def _own_supply(gpus: int, gpu: NodeType, rates: Rates, assumed: Assumptions) -> float:
    """Clips a second that the GPU nodes decode on the CPUs which their workers leave."""
    free = max(0.0, num_nodes(gpus, gpu) * gpu.cpus - gpus * assumed.cpus_per_worker)
    return free * rates.decode_clips_per_s_core * gpu.core_speed


def num_nodes(gpus: int, gpu: NodeType) -> int:
    return -(-gpus // gpu.gpus)


def slowest_of(count: int) -> float:
    """Expected largest of ``count`` standard normal draws, in standard deviations (Blom's approximation).

    Within 5 % of the exact 0.564 for 2 and within 1 % of 1.423 for 8.
    """
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25))


def all_reduce_s(gpus: int, gpu: NodeType, gradient_bytes: float, assumed: Assumptions) -> float:
    """Seconds of one ring all-reduce: 2 (G - 1) / G S over the narrowest link, and 2 (G - 1) hops."""
    if gpus == 1:
        return 0.0
    volume = 2 * (gpus - 1) / gpus * gradient_bytes
    return volume / _link(gpus, gpu, assumed) + 2 * (gpus - 1) * assumed.hop_us / 1e6


def _link(gpus: int, gpu: NodeType, assumed: Assumptions) -> float:
    """Bytes a second of the narrowest link of the ring: within a node, or between nodes."""
    within = (gpu.gpu_link_gbyte_s or math.inf) * 1e9
    if num_nodes(gpus, gpu) == 1:
        return within
    return min(within, network_bytes_s(gpu, assumed))


def network_bytes_s(node: NodeType, assumed: Assumptions) -> float:
    """What a node's network carries in one direction."""
    return node.network_gbit_s * 1e9 / 8 * assumed.network_share


def stream_clips_per_s(rates: Rates, assumed: Assumptions) -> float:
    """What one stream deals out at most: as measured, else as assumed."""
    return rates.stream_clips_per_s or assumed.stream_clips_per_s


def speed(
    gpus: int,
    gpu: NodeType,
    cpu: NodeType,
    rates: Rates,
    gradient_bytes: float,
    assumed: Assumptions,
    cpu_nodes: int | None = None,
) -> Speed:
    """The step time on ``gpus`` GPUs, and what sets it; with as many CPU nodes as it takes, or the number given.

    step = max(compute with stragglers + what of the all-reduce is not hidden,
               bytes into a node / its network,
               clips of the step / what all CPUs decode,
               clips of the step / what all streams deal out,
               clips out of a CPU node / its network)
    """
    if cpu_nodes is None:
        cpu_nodes = cpu_nodes_needed(gpus, gpu, cpu, rates, assumed)
    nodes, k = num_nodes(gpus, gpu), rates.batch_size
    alone_s = k / rates.train_clips_per_s_gpu
    stragglers_s = alone_s * assumed.jitter * slowest_of(gpus)
    reduce_s = all_reduce_s(gpus, gpu, gradient_bytes, assumed)
    exposed_s = max(0.0, reduce_s - assumed.overlap * alone_s)

    own = _own_supply(gpus, gpu, rates, assumed)
    one_cpu_node = cpu.cpus * rates.decode_clips_per_s_core * cpu.core_speed
    supply = own + cpu_nodes * one_cpu_node
    if supply <= 0:
        raise UserError(
            f"nothing decodes for {counted(gpus, 'GPU')}: give CPU nodes, or GPU nodes with CPUs to spare"
        )
    from_elsewhere = 1 - own / nodes / supply
    clip_bytes = min(gpu.gpus, gpus) * k * rates.clip_bytes * from_elsewhere
    ring_bytes = 2 * (gpus - 1) / gpus * gradient_bytes if nodes > 1 else 0.0
    into_node = clip_bytes + ring_bytes
    out_of_cpu_node = one_cpu_node / supply * gpus * k * rates.clip_bytes if cpu_nodes else 0.0

    decode_s = gpus * k / supply
    network_s = max(
        into_node / network_bytes_s(gpu, assumed), out_of_cpu_node / network_bytes_s(cpu, assumed)
    )
    busy_s = alone_s + stragglers_s + exposed_s
    deal_s = gpus * k / (-(-gpus // assumed.ranks_per_stream) * stream_clips_per_s(rates, assumed))
    step_s = max(busy_s, network_s, decode_s, deal_s)
    if step_s == busy_s:
        extra = {"gpu": 0.0, "stragglers": stragglers_s, "all-reduce": exposed_s}
        largest = max(extra, key=lambda name: extra[name])
        limit = largest if extra[largest] > 0.1 * alone_s else "gpu"
    else:
        bounds = {network_s: "network", decode_s: "decode", deal_s: "streams"}
        limit = bounds[step_s]
    return Speed(
        gpus=gpus,
        gpu_nodes=nodes,
        cpu_nodes=cpu_nodes,
        step_s=step_s,
        clips_per_s=gpus * k / step_s,
        efficiency=alone_s / step_s,
        network_mb_s=into_node / step_s / 1e6,
        limit=limit,
    )
