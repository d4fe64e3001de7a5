"""Compare the rate of training with clips from the data stream and with clips that are already decoded.

    ready     one batch, decoded before and repeated: the cost of the network and the optimizer
    stream    a training's Ray Data stream, on the connected cluster

Both use the step of a worker of ``stm train`` (``stm.train.replica``), in turns, on one device.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stm.bench.data import load, samples_of
from stm.config import Config
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import ClipBatch, build_stream, iterate
from stm.log import get_logger
from stm.train.clock import StepClock, share_waited
from stm.train.fit import stream_spec
from stm.train.replica import Replica

logger = get_logger(__name__)

LEARNING_RATE = 1e-4
"""Learning rate of the measured steps, whose result is not used."""


def measure(
    manifest: Manifest,
    config: Config,
    device: torch.device,
    *,
    steps: int,
    repetitions: int,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure clips per second of one worker; return medians of the repetitions, with the smallest and largest value.

    The first step of each run is not counted.

    Returns ``clips_per_s`` and ``spread`` for `ready` and `stream`, ``stream_to_ready`` (median of the rounds' ratios)
    and ``wait_share``, the part of the stream's time that the step waited for clips.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        used_threads = torch.get_num_threads()
        replica = Replica(config, manifest.num_classes, device, 1, None)
        rates: dict[str, list[float]] = {"ready": [], "stream": []}
        waits = []
        ready = _ready_batch(manifest, config)
        for repetition in range(repetitions):
            _come_to_rest()
            rate, _ = _run(replica, itertools.repeat(ready, steps + 1), device)
            rates["ready"].append(rate)
            rate, wait = _run(replica, _stream(manifest, config, steps + 1), device)
            rates["stream"].append(rate)
            waits.append(wait)
            logger.info(
                f"  round {repetition + 1} of {repetitions}: "
                + ", ".join(f"{name} {values[-1]:.4g}" for name, values in rates.items())
                + f" clips/s, waiting for data {wait:.0%}"
            )
    finally:
        torch.set_num_threads(before)
    ratios = [a / b for a, b in zip(rates["stream"], rates["ready"], strict=True)]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": used_threads,
        "steps": steps,
        "clips_per_s": {
            name: round(statistics.median(values), 2) for name, values in rates.items()
        },
        "spread": {
            name: [round(min(values), 2), round(max(values), 2)] for name, values in rates.items()
        },
        "stream_to_ready": round(statistics.median(ratios), 3),
        "wait_share": round(statistics.median(waits), 3),
    }


def _ready_batch(manifest: Manifest, config: Config) -> ClipBatch:
    """Decode and return the first batch of the plan."""
    spec = ClipSpec.training(
        config.data, flip=manifest.flip, flip_map=manifest.flip_map, classes=manifest.classes
    )
    size = config.optim.batch_size
    samples = samples_of(manifest, size, size, config.train.seed)
    clips, labels = zip(*(load(sample, spec) for sample in samples), strict=True)
    return ClipBatch(
        clips=np.stack(clips)[:, None],
        labels=np.array(labels, np.int64),
        weights=np.ones(len(clips), np.float32),
        videos=np.arange(len(clips)),
        epoch=0,
        offset_end=len(clips),
    )


def _come_to_rest(patience_s: float = 30.0) -> None:
    """Wait until the stream of the previous round has filled its buffers and stops decoding."""
    import ray

    cpus, deadline = ray.cluster_resources().get("CPU", 0), time.monotonic() + patience_s
    while ray.available_resources().get("CPU", 0) < cpus and time.monotonic() < deadline:
        time.sleep(0.2)


def _stream(manifest: Manifest, config: Config, num_batches: int) -> Iterator[ClipBatch]:
    """Yield ``num_batches`` full batches of the training stream."""
    batch_size = config.optim.batch_size
    spec = stream_spec(
        config,
        manifest,
        ClipSpec.training(
            config.data, flip=manifest.flip, flip_map=manifest.flip_map, classes=manifest.classes
        ),
        num_epochs=-(-num_batches // max(1, len(manifest.usable) // batch_size)),
        shuffle=True,
    )
    (shard,) = build_stream(spec, world_size=1).streaming_split(1, equal=True)
    batches = iterate(shard, config.data.prefetch_batches)
    full = (batch for batch in batches if (batch.videos >= 0).all())
    yield from itertools.islice(full, num_batches)


def _run(
    replica: Replica, batches: Iterator[ClipBatch], device: torch.device
) -> tuple[float, float]:
    """Return clips per second after the first step, and the share of that time spent waiting for clips."""
    replica.step(next(batches), LEARNING_RATE, seed=0)
    _finish(device)
    clips, waited, clock = 0, 0.0, StepClock(device)
    begun = asked = time.perf_counter()
    for batch in batches:
        waited += time.perf_counter() - asked
        with clock.step():
            replica.step(batch, LEARNING_RATE, seed=0)
        clips += len(batch.videos)
        asked = time.perf_counter()
    computed = clock.take()()
    total = time.perf_counter() - begun
    return clips / total, share_waited(waited, computed, total)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
