"""A whole plan: the curve over numbers of GPUs, what each costs, and everything that was assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stm.errors import UserError
from stm.planning.cost import Job, cost
from stm.planning.model import (
    Assumptions,
    Speed,
    cpu_nodes_needed,
    decode_cores_per_gpu,
    network_bytes_s,
    num_nodes,
    speed,
    stream_clips_per_s,
)
from stm.planning.originals import Originals
from stm.planning.prices import NodeType, Prices
from stm.planning.rates import Rates
from stm.plural import counted

GPU_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)

FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be planned."""

    rates: Rates
    job: Job
    prices: Prices
    gpu: str = "gpu"
    cpu: str = "cpu"
    head: str | None = "head"
    num_parameters: int
    """Of the network; their gradients are float32, under bfloat16 arithmetic too."""
    assumed: Assumptions
    cpu_nodes_per_gpu_node: float | None = None
    """As many CPU nodes as there will be for each GPU node; None plans as many as it takes."""
    originals: Originals | None = None
    """What the videos are, where there is a manifest of them."""


def make(question: Question) -> dict[str, Any]:
    """The plan as one JSON object; ``rows`` is the curve over ``GPU_COUNTS``."""
    gpu, cpu, head = (_node(question, key) for key in ("gpu", "cpu", "head"))
    assert gpu is not None
    assert cpu is not None
    if gpu.gpus < 1:
        raise UserError(f"--gpu_node {gpu.name}: has no GPU in the prices")
    rates, assumed = question.rates, question.assumed
    gradient_bytes = question.num_parameters * FLOAT32_BYTES
    rows = []
    for count in GPU_COUNTS:
        given = None
        if question.cpu_nodes_per_gpu_node is not None:
            given = round(question.cpu_nodes_per_gpu_node * num_nodes(count, gpu))
        point = speed(count, gpu, cpu, rates, gradient_bytes, assumed, given)
        price = cost(point, question.job, rates.batch_size, gpu, cpu, head)
        rows.append({**point.to_dict(), **price.to_dict()})
    full = speed(gpu.gpus, gpu, cpu, rates, gradient_bytes, assumed)
    return {
        "rows": rows,
        "currency": question.prices.currency,
        "per_gpu_node": _per_gpu_node(full, gpu, cpu, rates, assumed),
        "clip_mb": round(rates.clip_bytes / 1e6, 3),
        "gradient_mb": round(gradient_bytes / 1e6, 1),
        "originals": question.originals
        and {
            "ms_per_clip": round(question.originals.ms, 1),
            "prepared_ms_per_clip": round(question.originals.prepared_ms, 1),
            "prepare_first": question.originals.should_be_prepared,
            "said": question.originals.said(rates.train_clips_per_s_gpu),
        },
        "measured": {
            "decode_clips_per_s_core": [rates.decode_clips_per_s_core, rates.sources["decode"]],
            "train_clips_per_s_gpu": [rates.train_clips_per_s_gpu, rates.sources["train"]],
        },
        "assumed": assumptions(question),
    }


def _node(question: Question, key: str) -> NodeType | None:
    name = getattr(question, key)
    if name is None:
        return None
    if name not in question.prices.nodes:
        there = ", ".join(question.prices.nodes)
        raise UserError(f"--{key}_node {name}: not in the prices, which have {there}")
    return question.prices[name]


def _per_gpu_node(
    full: Speed, gpu: NodeType, cpu: NodeType, rates: Rates, assumed: Assumptions
) -> dict[str, Any]:
    """What one whole GPU node needs beside it; ``cpu_nodes`` is a fraction, of many nodes each."""
    many = 1000
    cores = decode_cores_per_gpu(rates, assumed.decode_headroom) * gpu.gpus
    return {
        "gpus": gpu.gpus,
        "decode_cores": round(cores, 1),
        "own_cores": max(0.0, gpu.cpus - gpu.gpus * assumed.cpus_per_worker),
        "cpu_nodes": cpu_nodes_needed(many * gpu.gpus, gpu, cpu, rates, assumed) / many,
        "clips_mb_s": round(gpu.gpus * rates.train_clips_per_s_gpu * rates.clip_bytes / 1e6, 1),
        "network_mb_s": round(network_bytes_s(gpu, assumed) / 1e6, 1),
    }


def assumptions(question: Question) -> list[str]:
    """Every figure and simplification of the plan that nobody has measured, one sentence each."""
    assumed, job, gpu, cpu = question.assumed, question.job, question.gpu, question.cpu
    core = {name: question.prices[name].core_speed for name in (gpu, cpu)}
    told = [
        f"prices: {question.prices.source}",
        f"a CPU of {gpu} and of {cpu} decodes {core[gpu]:g} and {core[cpu]:g} times what the measured core does",
        f"{counted(assumed.decode_headroom, 'decoding core', 'g')} for each one that the mean rate asks for",
        f"{assumed.cpus_per_worker:g} CPU for each training worker; the others of a GPU node decode",
        f"the network carries {assumed.network_share:.0%} of its nominal rate",
        f"the all-reduce is hidden during {assumed.overlap:.0%} of a step, and each hop of its ring takes "
        f"{assumed.hop_us:g} us",
        f"step times of ranks vary by {assumed.jitter:.0%}, and each step waits for the slowest",
        "clips go to any rank, whichever node decoded them; reading videos from storage sets no limit",
        f"each stream feeds up to {counted(assumed.ranks_per_stream, 'GPU')} (--data.streams null) and deals out at "
        f"most {stream_clips_per_s(question.rates, assumed):.0f} clips/s, "
        + (
            "as measured"
            if question.rates.stream_clips_per_s
            else "which `stm bench scale` measures"
        ),
        "validation takes no time",
        f"{job.start_s:g} s from the first paid node to the first step",
        f"an interruption costs {job.restart_s:g} s and the steps since the last checkpoint "
        f"({job.checkpoint_minutes:g} min apart): the notice before it, which saves them, does not come",
        "spot nodes that decode are taken away at no cost but theirs; another GPU node comes at once",
    ]
    if question.cpu_nodes_per_gpu_node is not None:
        nodes = counted(question.cpu_nodes_per_gpu_node, "CPU node", "g")
        told.append(f"{nodes} for each GPU node, as given")
    return told
