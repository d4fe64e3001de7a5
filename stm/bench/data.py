"""Compare the rate of clips from the Ray Data stream, from a process pool and from a DataLoader.

All three decode the same clips in the same order with ``stm.data.stream.clips.load_views`` in the same number of
processes, and one reader takes their batches. The time counts from the first batch, so that starting is not compared.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np

from stm.config import DataConfig
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec, load_views
from stm.data.stream.graph import BLOCK_BYTES, StreamSpec, build_stream, iterate, put_videos
from stm.data.stream.plan import shares
from stm.log import get_logger
from stm.ticker import Ticker

logger = get_logger(__name__)

Sample = tuple[str, int, int, int, int, int, float]
"""The arguments of ``load_views``, without the spec."""


def samples_of(manifest: Manifest, num_clips: int, batch_size: int, seed: int) -> list[Sample]:
    """Return the first ``num_clips`` samples of the plan, from as many epochs as necessary."""
    columns = ("path", "num_frames", "width", "height", "label", "fps")
    rows = list(zip(*(manifest.table[name].to_pylist() for name in columns), strict=True))
    rows = [rows[i] for i in manifest.usable]
    epochs = -(-num_clips // len(rows))
    plan = shares(
        len(rows), global_batch=batch_size, world_size=1, seed=seed, num_epochs=epochs, shuffle=True
    )
    samples = [
        (*rows[video][:5], int(number), rows[video][5])
        for share in plan
        for video, number in zip(share.videos, share.seeds, strict=True)
        if video >= 0
    ]
    return samples[:num_clips]


def load(sample: Sample, spec: ClipSpec) -> tuple[np.ndarray, int]:
    """Return the clip of a sample, uint8 [T, S, S, 3], and its label."""
    *drawn, fps = sample
    views, label = load_views(*drawn, spec, fps)  # type: ignore[call-arg, arg-type]
    return views[0], label


class _Clips:
    """A map-style dataset for PyTorch's DataLoader."""

    def __init__(self, samples: list[Sample], spec: ClipSpec) -> None:
        self._samples, self._spec = samples, spec

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> np.ndarray:
        # A mirrored clip is a view with a negative stride, which PyTorch does not accept.
        return np.ascontiguousarray(load(self._samples[number], self._spec)[0])


def _batch_in_pool(arguments: tuple[list[Sample], ClipSpec]) -> np.ndarray:
    samples, spec = arguments
    return np.stack([load(sample, spec)[0] for sample in samples])


def through_pool(
    samples: list[Sample], spec: ClipSpec, batch_size: int, cores: int
) -> Iterator[int]:
    """Decode in a ``multiprocessing`` pool of new interpreters; yield the size of each batch, in order."""
    import multiprocessing

    batches = [(samples[i : i + batch_size], spec) for i in range(0, len(samples), batch_size)]
    with multiprocessing.get_context("spawn").Pool(cores, initializer=one_thread) as pool:
        for batch in pool.imap(_batch_in_pool, batches):
            yield len(batch)


def through_loader(
    samples: list[Sample], spec: ClipSpec, batch_size: int, cores: int
) -> Iterator[int]:
    """Decode in a ``torch.utils.data.DataLoader``; yield the size of each batch, in order."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Clips(samples, spec),  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=cores,
        multiprocessing_context="spawn",
        worker_init_fn=one_thread,
    )
    for batch in loader:
        yield len(batch)


def through_stream(
    manifest: Manifest, spec: ClipSpec, batch_size: int, num_clips: int, seed: int
) -> Iterator[int]:
    """Decode in the Ray Data stream on the connected cluster; yield the size of each batch."""
    num_videos = len(manifest.usable)
    stream = build_stream(
        StreamSpec(
            videos=put_videos(manifest),
            num_videos=num_videos,
            global_batch=batch_size,
            clip=spec,
            seed=seed,
            num_epochs=-(-num_clips // num_videos),
            shuffle=True,
            block_bytes=BLOCK_BYTES,
        ),
        world_size=1,
    )
    left = num_clips
    (shard,) = stream.streaming_split(1, equal=True)  # as training reads it
    for batch in iterate(shard, 2):
        size = int((batch.videos >= 0).sum())
        left -= size
        yield size
        if left <= 0:
            return


AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "as the paper": {},
    "crop corners13": {"crop": "corners13"},
    "crop resized": {"crop": "resized"},
    "color_jitter 0.4": {"color_jitter": 0.4},
    "hue 0.1": {"hue": 0.1},
    "grey 1": {"grey": 1.0},
    "blur 1": {"blur": 1.0},
    "randaugment 2": {"randaugment": 2},
    "erasing 1": {"erasing": 1.0},
    "reverse auto": {"reverse": "auto"},
    "temporal_jitter 0.5": {"temporal_jitter": 0.5},
    "sampling dense, frame_stride 8": {"sampling": "dense"},
    "sampling dense, frame_stride 2": {"sampling": "dense", "frame_stride": 2},
    "sampling seconds, window_s 2": {"sampling": "seconds"},
}
"""Settings of `DataConfig` for each row of the table; shares are 1, so that every clip is augmented."""


def measure_augmentations(
    manifest: Manifest, config: DataConfig, *, num_clips: int, repetitions: int
) -> dict[str, Any]:
    """Measure the CPU time of a training clip in this process, on one thread, with each of `AUGMENTATIONS`.

    They take turns on each clip. A clip's time is the shortest of its repetitions, and ``times`` is the median over
    clips of the ratio to the first row.
    """
    one_thread()
    specs = {
        name: ClipSpec.training(
            replace(config, **changes),
            flip=manifest.flip,
            flip_map=manifest.flip_map,
            classes=manifest.classes,
        )
        for name, changes in AUGMENTATIONS.items()
    }
    samples = samples_of(manifest, max(num_clips, 1), 1, seed=0)
    least_NK = np.full((len(samples), len(specs)), np.inf)
    tick = Ticker("clips")
    for i, sample in enumerate(samples):
        load(sample, specs["as the paper"])  # reads the file into the disk's cache
        for _ in range(repetitions):
            for k, spec in enumerate(specs.values()):
                begun = time.process_time()
                np.ascontiguousarray(load(sample, spec)[0])  # a mirrored clip is a view until then
                least_NK[i, k] = min(least_NK[i, k], 1000 * (time.process_time() - begun))
        tick(i + 1, len(samples))
    rows = {}
    for ms_N, times_N, name in zip(least_NK.T, (least_NK / least_NK[:, :1]).T, specs, strict=True):
        low, middle, high = np.percentile(ms_N, [25, 50, 75]).tolist()
        rows[name] = {
            "ms": round(middle, 2),
            "quartiles_ms": [round(low, 2), round(high, 2)],
            "clips_per_s_core": round(1000 / middle, 1),
            "times": round(float(np.median(times_N)), 3),
        }
    shape = {"num_frames": config.num_segments, "size": config.size}
    return {"num_clips": len(samples), **shape, "rows": rows}


def one_thread(*_: Any) -> None:
    """Limit PyTorch in this process to one thread, as in the stream's tasks."""
    import torch

    torch.set_num_threads(1)


def rate(batches: Iterator[int], consume_s: float = 0.0) -> tuple[float, float]:
    """Return clips per second after the first batch, and the share of that time spent waiting.

    The reader spends ``consume_s`` seconds on each clip.
    """
    waited, clips = 0.0, 0
    next(batches)
    begun = asked = time.perf_counter()
    for size in batches:
        waited += time.perf_counter() - asked
        clips += size
        time.sleep(consume_s * size)
        asked = time.perf_counter()
    total = time.perf_counter() - begun
    return clips / total, waited / total


def _of_peers(
    python: str, samples: list[Sample], spec: ClipSpec, batch_size: int, cores: int
) -> dict[str, Callable[[], Iterator[int]]]:
    from stm.bench import peers
    from stm.data.stream import sampling

    generator = np.random.default_rng(0)
    drawn = [
        (path, sampling.random_indices(num_frames, spec.num_segments, generator).tolist())
        for path, num_frames, *_ in samples
    ]
    with ExitStack() as stack:  # finds the available ones before anything is measured
        names = list(peers.start(python, peers.DECODERS, "decode", stack, size=spec.size))
    return {
        f"loader, {name}": functools.partial(
            peers.through_loader,
            python,
            name,
            drawn,
            size=spec.size,
            batch_size=batch_size,
            cores=cores,
        )
        for name in names
    }


def measure(
    manifest: Manifest,
    spec: ClipSpec,
    *,
    cores: int,
    num_clips: int,
    batch_size: int,
    repetitions: int,
    peers: str | None = None,
) -> dict[str, Any]:
    """Measure clips per second of each, interleaved; return medians, with the smallest and the largest value.

    ``wait_share`` is that of a consumer with 0.8 of the stream's rate. ``peers`` is the interpreter of an environment
    with torchcodec or mmaction2 (``stm.bench.peers``): a DataLoader of each reads the same videos, the centre square of
    frames that are drawn in the same way. A peer that cannot read a video is left out.
    """
    from stm.bench.peers import PeerError

    samples = samples_of(manifest, num_clips, batch_size, seed=0)
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "stream": lambda: through_stream(manifest, spec, batch_size, num_clips, seed=0),
        "pool": lambda: through_pool(samples, spec, batch_size, cores),
        "loader": lambda: through_loader(samples, spec, batch_size, cores),
    }
    ways |= _of_peers(peers, samples, spec, batch_size, cores) if peers else {}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions):
        for name, way in list(ways.items()):
            try:
                rates[name].append(rate(way())[0])
            except PeerError as error:  # for example, it cannot read a video
                logger.warning(f"  without {name}: {error}")
                del ways[name], rates[name]
        logger.info(
            f"  round {repetition + 1} of {repetitions}: "
            + ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items())
            + " clips/s"
        )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    _, wait_share = rate(ways["stream"](), consume_s=1 / (0.8 * medians["stream"]))
    pairs = list(zip(rates["stream"], rates["pool"], strict=True))
    return {
        "cores": cores,
        "clips_per_s": {name: round(value, 1) for name, value in medians.items()},
        "spread": {
            name: [round(min(values), 1), round(max(values), 1)] for name, values in rates.items()
        },
        "stream_to_pool": round(statistics.median(a / b for a, b in pairs), 3),
        "wait_share": round(wait_share, 3),
        "clip_mb": round(spec.clip_bytes / 1e6, 3),
    }
