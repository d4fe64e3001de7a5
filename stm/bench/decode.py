"""How fast each decoder makes a clip of real files, side by side: CPU time of one process, all its threads counted.

naive decord    decord's defaults, Pillow's resize, float32: what a first script does
tuned decord    one thread, one antialiased resize of the clip, uint8
sequential      PyAV, decoding from the start
packets         the packet plan (``stm.data.decode.packets``), what `auto` takes
probed packets  the same after a probe of the file, as if there were no manifest
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from stm.data.decode import VideoError, probe, read_clip, read_frames
from stm.data.stream import sampling, transforms

Way = Callable[[str, list[int], transforms.Box, int], Any]


def naive_decord(path: str, indices: list[int], box: transforms.Box, size: int) -> Any:
    """float32 [K, 3, size, size], as a first script would make it."""
    import decord
    import torch
    from PIL import Image

    frames = decord.VideoReader(path).get_batch(indices).asnumpy()
    left, top, width, height = (round(edge) for edge in box)
    resized = [
        np.asarray(
            Image.fromarray(frame)
            .crop((left, top, left + width, top + height))
            .resize((size, size), Image.Resampling.BILINEAR)
        )
        for frame in frames
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float().div_(255)


def tuned_decord(path: str, indices: list[int], box: transforms.Box, size: int) -> Any:
    """uint8 [K, size, size, 3]: one thread, one resize. No guard: wrong frames are timed, too."""
    import decord

    from stm.data.decode.resize import resize_clip

    frames = decord.VideoReader(path, num_threads=1).get_batch(indices).asnumpy()
    left, top, width, height = (round(edge) for edge in box)
    return resize_clip(frames[:, top : top + height, left : left + width], size)


WAYS: dict[str, Way] = {
    "naive decord": naive_decord,
    "tuned decord": tuned_decord,
    "sequential": lambda path, indices, box, size: read_clip(
        path, indices, box, size, "sequential"
    ),
    "packets": lambda path, indices, box, size: read_clip(path, indices, box, size, "packets"),
    "probed packets": lambda path, indices, box, size: (
        probe(path),
        read_clip(path, indices, box, size, "packets"),
    ),
}

STAGES: dict[str, Way] = {
    "probe (demux, one frame)": lambda path, indices, box, size: probe(path),
    "demux and decode": lambda path, indices, box, size: read_frames(path, indices, "packets"),
    "the whole clip": WAYS["packets"],
}
"""Each includes what the one before does but for the probe's own decoding."""


def measure(
    paths: list[str],
    *,
    num_frames: int,
    size: int,
    repetitions: int,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """CPU milliseconds a clip of every way and stage over the files that all of them can read.

    Ways run interleaved, in a random order for each repetition, on the same frames. Of each file the median counts,
    of the files the mean. decord reads files alone: it is left out where all are rows of shards, frame folders or URLs.

    Returns ``ms`` and ``spread_ms`` (mean over files of max - min), ``clips_per_s_core`` and ``ratio_to_packets`` by
    way, ``stages_ms``, ``by_codec`` and what could not be read by whom.
    """
    import torch

    torch.set_num_threads(1)
    ways = dict(WAYS)
    if importlib.util.find_spec("decord") is None or not any(map(os.path.isfile, paths)):
        ways = {name: way for name, way in WAYS.items() if "decord" not in name}
    generator = np.random.default_rng(seed)
    times: dict[str, dict[str, list[float]]] = {name: {} for name in (*ways, *STAGES)}
    unreadable: dict[str, str] = {}
    codec: dict[str, str] = {}
    for number, path in enumerate(paths):
        try:
            info = probe(path)
        except VideoError as error:
            unreadable[path] = str(error)
            continue
        box = transforms.centre_box(info.width, info.height, 1.0)
        for _ in range(repetitions):
            indices = sampling.random_indices(info.num_frames, num_frames, generator).tolist()
            names = [*ways, *STAGES]
            generator.shuffle(names)
            for name in names:
                way = ways.get(name) or STAGES[name]
                begun = time.process_time()
                try:
                    way(path, indices, box, size)
                except Exception as error:  # a decoder that refuses a file is a finding
                    unreadable[f"{path} by {name}"] = str(error)[:200]
                    continue
                times[name].setdefault(path, []).append((time.process_time() - begun) * 1000)
        codec[path] = info.codec
        tick(number + 1, len(paths))
    common = [path for path in codec if all(path in times[name] for name in ways)]
    if not common:
        return {"num_videos": 0, "unreadable": unreadable}

    def mean_of_medians(name: str, among: list[str]) -> float:
        return statistics.mean(statistics.median(times[name][path]) for path in among)

    ms = {name: mean_of_medians(name, common) for name in ways}
    by_codec = {
        kind: {
            "num_videos": len(among),
            **{name: round(mean_of_medians(name, among), 2) for name in ways},
        }
        for kind in sorted(set(codec.values()))
        if (among := [path for path in common if codec[path] == kind])
    }
    return {
        "num_videos": len(common),
        "ms": {name: round(value, 2) for name, value in ms.items()},
        "spread_ms": {
            name: round(
                statistics.mean(max(times[name][p]) - min(times[name][p]) for p in common), 2
            )
            for name in ways
        },
        "clips_per_s_core": {name: round(1000 / value, 1) for name, value in ms.items()},
        "ratio_to_packets": {name: round(value / ms["packets"], 2) for name, value in ms.items()},
        "stages_ms": {name: round(mean_of_medians(name, common), 2) for name in STAGES},
        "by_codec": by_codec,
        "unreadable": unreadable,
    }
