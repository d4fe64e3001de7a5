"""Compare the CPU time, of all threads of one process, in which each decoder makes a clip of real files.

naive decord    decord's defaults, Pillow's resize, float32, as in a simple script
tuned decord    one thread, one antialiased resize of the clip, uint8
sequential      PyAV, decoding from the start
packets         the packet plan (``stm.data.decode.packets``), which `auto` uses
probed packets  the packet plan after a probe of the file, as without a manifest
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from stm.bench.peer_process import thumbnails
from stm.data.decode import VideoError, probe, read_clip, read_frames
from stm.data.stream import sampling, transforms

if TYPE_CHECKING:
    from stm.bench.peers import Peer

Way = Callable[[str, list[int], transforms.Box, int], Any]
"""A function of path, frame numbers, box and size that makes a clip, or the result of a stage."""


def naive_decord(path: str, indices: list[int], box: transforms.Box, size: int) -> Any:
    """Return uint8 [K, size, size, 3], and also convert it to float32 [K, 3, size, size] as a simple script would."""
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
    clip = np.stack(resized)
    torch.from_numpy(clip).permute(0, 3, 1, 2).float().div_(255)
    return clip


def tuned_decord(path: str, indices: list[int], box: transforms.Box, size: int) -> Any:
    """Return uint8 [K, size, size, 3], with one thread and one resize; decord may return wrong frames."""
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
    )[1],
}

STAGES: dict[str, Way] = {
    "probe (demux, one frame)": lambda path, indices, box, size: probe(path),
    "demux and decode": lambda path, indices, box, size: read_frames(path, indices, "packets"),
    "the whole clip": WAYS["packets"],
}
"""Each stage includes the previous one, except for the decoding in the probe."""


def measure(
    paths: list[str],
    *,
    num_frames: int,
    size: int,
    repetitions: int,
    seed: int = 0,
    peers: str | None = None,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure the CPU time of a clip in every way and stage, and the wrong frames of every way.

    Ways run interleaved on the same frames, in a random order for each repetition. Times are means, over the files that
    every way can read, of a file's median. decord reads only files: it is left out if all videos are rows of shards,
    frame folders or URLs. ``peers`` is the interpreter of an environment with torchcodec or mmaction2
    (``stm.bench.peers``), which run in separate processes, and also read only files.

    Returns by way ``ms``, ``spread_ms`` (mean over files of max - min), ``clips_per_s_core``, ``ratio_to_packets``,
    ``wrong`` (``[frames, of]``) and ``failed`` (files); and ``wrong_in`` (by file), ``stages_ms``, ``by_codec`` and
    ``unreadable`` (reason by file and way).
    """
    import torch

    from stm.bench.peers import DECODERS, start

    torch.set_num_threads(1)
    ways, has_files = dict(WAYS), any(map(os.path.isfile, paths))
    if find_spec("decord") is None or not has_files:
        ways = {name: way for name, way in WAYS.items() if "decord" not in name}
    generator = np.random.default_rng(seed)
    unreadable: dict[str, str] = {}
    codec: dict[str, str] = {}
    with ExitStack() as stack:
        entrants = {name: timed(way) for name, way in (ways | STAGES).items()}
        versions = {}
        if peers and has_files:
            for name, peer in start(peers, DECODERS, "decode", stack, size=size).items():
                entrants[name], versions[name] = asked(peer), peer.name
        competing = [name for name in entrants if name not in STAGES]
        times: dict[str, dict[str, list[float]]] = {name: {} for name in entrants}
        wrong = {name: [0, 0] for name in competing}
        wrong_in: dict[str, int] = {}
        for number, path in enumerate(paths):
            try:
                info = probe(path)
                box = transforms.centre_box(info.width, info.height, 1.0)
                seen = every_frame(path, info.num_frames, box, size)
            except VideoError as error:
                unreadable[path] = str(error)
                continue
            for _ in range(repetitions):
                indices = sampling.random_indices(info.num_frames, num_frames, generator).tolist()
                names = [*entrants]
                generator.shuffle(names)
                for name in names:
                    try:
                        ms, made = entrants[name](path, indices, box, size)
                    except Exception as error:  # a refused file is a result
                        unreadable[f"{path} by {name}"] = str(error)[:200]
                        continue
                    times[name].setdefault(path, []).append(ms)
                    if name in wrong:
                        looks = made if name in versions else thumbnails(made)
                        count = int(np.sum(are_wrong(looks, indices, seen)))
                        wrong[name][0] += count
                        wrong[name][1] += len(indices)
                        if count:
                            key = f"{path} by {name}"
                            wrong_in[key] = wrong_in.get(key, 0) + count
            codec[path] = info.codec
            tick(number + 1, len(paths))
    failed = {name: sum(path not in times[name] for path in codec) for name in competing}
    common = [path for path in codec if all(path in times[name] for name in competing)]
    if not common:
        return {"num_videos": 0, "unreadable": unreadable}

    def mean_of_medians(name: str, among: list[str]) -> float:
        return statistics.mean(statistics.median(times[name][path]) for path in among)

    ms_by_way = {name: mean_of_medians(name, common) for name in competing}
    by_codec = {
        kind: {
            "num_videos": len(among),
            **{name: round(mean_of_medians(name, among), 2) for name in competing},
        }
        for kind in sorted(set(codec.values()))
        if (among := [path for path in common if codec[path] == kind])
    }
    return {
        "num_videos": len(common),
        "wrong": wrong,
        "wrong_in": wrong_in,
        "failed": failed,
        "peers": versions,
        "ms": {name: round(value, 2) for name, value in ms_by_way.items()},
        "spread_ms": {
            name: round(
                statistics.mean(max(times[name][p]) - min(times[name][p]) for p in common), 2
            )
            for name in competing
        },
        "clips_per_s_core": {name: round(1000 / value, 1) for name, value in ms_by_way.items()},
        "ratio_to_packets": {
            name: round(value / ms_by_way["packets"], 2) for name, value in ms_by_way.items()
        },
        "stages_ms": {name: round(mean_of_medians(name, common), 2) for name in STAGES},
        "by_codec": by_codec,
        "unreadable": unreadable,
    }


def timed(way: Way) -> Way:
    """Wrap a way of this process to return its CPU time (ms) and its result."""

    def clip(path: str, indices: list[int], box: transforms.Box, size: int) -> tuple[float, Any]:
        begun = time.process_time()
        made = way(path, indices, box, size)
        return 1000 * (time.process_time() - begun), made

    return clip


def asked(peer: Peer) -> Way:
    """Wrap a peer, whose clip is always the centre square, to return its CPU time (ms) and thumbnails of its frames."""

    def clip(path: str, indices: list[int], box: transforms.Box, size: int) -> tuple[float, Any]:
        found = peer.ask([path, indices])
        if "error" in found:
            raise VideoError(path, found["error"])
        return found["ms"], np.array(found["thumbnails"], np.float32)

    return clip


NEARER = 1.0
"""A frame counts as another one that is nearer by more than this (mean absolute difference, of 255 levels)."""


def every_frame(path: str, num_frames: int, box: transforms.Box, size: int) -> np.ndarray:
    """Return the thumbnails of all frames, decoded sequentially from the start: float32 [N, D]."""
    parts = []
    for begin in range(0, num_frames, 256):
        indices = list(range(begin, min(begin + 256, num_frames)))
        parts.append(thumbnails(read_clip(path, indices, box, size, "sequential")))
    return np.concatenate(parts)


def are_wrong(looks: np.ndarray, indices: list[int], seen: np.ndarray) -> np.ndarray:
    """Return bool [K]: whether a thumbnail is nearer to another frame of the file than to the requested one.

    Colours may differ between decoders, and frames that look alike are not distinguished.
    """
    distances = np.abs(looks[:, None] - seen[None]).mean(axis=2)  # [K, N]
    asked = distances[np.arange(len(indices)), indices]
    return asked > distances.min(axis=1) + NEARER
