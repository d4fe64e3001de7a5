"""Measure whether a network's maps respond to motion, by correlation with the true masks of the demo's videos.

There are four figures for each map of a block, each a mean over N videos with a 95 % interval:

    motion     Pearson correlation of the map with the mask of what moves: where the digit is in this frame or the
               next one of the clip. A map that shows the digit without its motion also scores high.
    at rest    size of the map for a still clip (its middle frame, repeated), as a share of its size for the clip. It
               is 1 for a map of single frames, and 0 for a difference of frames.
    order      how much the map changes when the clip is played backwards: mean absolute change of each frame's map,
               as a share of its mean. A map of single frames does not change.
    direction  Pearson correlation of that change with the direction of the digit: its mask in the next frame minus
               its mask in the previous one. It is 1 if all changes are ahead of the digit, and 0 if nothing changes.

A figure includes all cells of the frames of a clip: of the first T - 1 for motion and at rest, since CMM's last output
is 0 by definition, and of the T - 2 inner ones for order and direction, since the first frame is the last backwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stm.data.decode import VideoError, read_views
from stm.data.decode.resize import pixel_box, resize_clip
from stm.data.manifest import Manifest
from stm.data.stream import sampling, transforms
from stm.errors import UserError
from stm.explain.explain import Network, titles
from stm.log import get_logger
from tests.tools import digits

logger = get_logger(__name__)

MEASURES = ("motion", "at_rest", "order", "direction")
UNTRAINED = "untrained"
DIFFERENCE = "frame difference"
_RESAMPLES = 10_000
_ROUNDING = 1e-5
"""Largest change that may come from the order of float32 sums."""


@dataclass(frozen=True)
class Video:
    """A clip of the demo with its true masks."""

    clip: np.ndarray
    """uint8 [T, S, S, 3], decoded."""
    digit: np.ndarray
    """float32 [T, S, S]: opacity of the digit in each frame."""
    pair: str
    """Equal for a video and its reversal."""


def check_motion(
    checkpoints: Sequence[str],
    manifest_path: str,
    *,
    which: str = "best",
    root: str | None = None,
    blocks: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure every map of the named blocks, for each checkpoint and for the first one's network before training.

    The rows also contain ``frame difference``: the absolute difference of the pixels of a frame and the next.

    Returns:
        ``{"num_videos", "num_pairs", "num_frames", "rows": [{"network", "block", "map", "motion": {"mean", "low",
        "high"}, "at_rest": ..., "order": ..., "direction": ...}]}``.

    Raises:
        UserError: a video is not the demo's, cannot be read, or was drawn with another seed.
    """
    networks = [Network(checkpoint, which) for checkpoint in checkpoints]
    first = networks[0]
    chosen = first.blocks(blocks)
    for network in networks:
        network.blocks(chosen)
        first.require_same_clips(network)
    if first.data.sampling != "segments":
        raise UserError(
            f"--motion_check needs --data.sampling segments, and {first.directory} has another sampling"
        )
    videos = [read(row, first, seed) for row in usable_rows(manifest_path, root)]
    logger.info(f"{len(videos)} videos, as their generator draws them")
    values: dict[tuple[str, str, str], list[list[float]]] = {}
    measured = [*zip(titles(networks), networks, strict=True), (UNTRAINED, untrained(first))]
    for label, network in measured:
        logger.info(f"measuring {label}")
        for video in videos:
            for (block, kind), figures in measure(network, video, chosen).items():
                values.setdefault((label, block, kind), []).append(figures)
    for video in videos:
        values.setdefault((DIFFERENCE, "", "pixels"), []).append(
            figures_of([_moved(clip) for clip in _played(video.clip)], video.digit)
        )
    pairs = np.unique([video.pair for video in videos], return_inverse=True)[1]
    rows = []
    for (label, block, kind), figures_NM in values.items():
        columns = zip(MEASURES, np.array(figures_NM).T, strict=True)
        row: dict[str, Any] = {"network": label, "block": block, "map": kind}
        rows.append(row | {name: interval(column, pairs) for name, column in columns})
    return {
        "num_videos": len(videos),
        "num_pairs": int(pairs.max()) + 1,
        "num_frames": first.data.num_segments,
        "rows": rows,
    }


def usable_rows(manifest_path: str, root: str | None = None) -> list[dict[str, Any]]:
    """Return the usable rows of a manifest. Raises ``UserError`` if there are none."""
    manifest = Manifest.read(manifest_path, root)
    rows = manifest.table.take(manifest.usable).to_pylist()
    if not rows:
        raise UserError(f"--motion_check {manifest_path}: no usable video")
    return rows


def read(row: dict[str, Any], network: Network, seed: int) -> Video:
    """Decode the clip of a manifest's row, and draw its masks."""
    path, num_frames, side = row["path"], row["num_frames"], row["width"]
    frames, digit, pair = digits.draw(path, side, num_frames, seed)
    indices = sampling.centre_indices(num_frames, network.data.num_segments)
    box = transforms.centre_box(side, side)
    left, top, right, bottom = pixel_box(box, side, side)

    def crop(whole: np.ndarray) -> np.ndarray:
        return resize_clip(whole[indices][:, top:bottom, left:right], network.data.size)

    try:
        clip = read_views(path, indices.tolist(), [box], network.data.size)[0]
    except VideoError as error:
        raise UserError(str(error)) from error
    digits.require_same(path, crop(frames), clip)
    opacity = np.repeat(np.rint(255 * digit).astype(np.uint8)[..., None], 3, axis=-1)
    return Video(clip, crop(opacity)[..., 0].astype(np.float32) / 255, pair)


def untrained(network: Network, seed: int = 0) -> Network:
    """Return the same network with initial weights."""
    import copy

    import torch

    from stm.checkpoint import format as checkpoints
    from stm.model import build_model

    meta = checkpoints.read_meta(network.directory)
    fresh = copy.copy(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh.model = (
            build_model(**checkpoints.network_arguments(meta, network.directory))
            .eval()
            .to(network.device)
        )
    return fresh


def measure(
    network: Network, video: Video, blocks: Sequence[str]
) -> dict[tuple[str, str], list[float]]:
    """Return the figures of ``MEASURES`` for one video, by block and kind of map."""
    seen = network.look(np.stack(_played(video.clip)), blocks)
    return {
        (block, kind): figures_of(list(three), video.digit)
        for block, kinds in seen.maps.items()
        for kind, three in kinds.items()
    }


def _played(clip: np.ndarray) -> list[np.ndarray]:
    """Return the clip, its repeated middle frame, and the clip backwards."""
    middle = len(clip) // 2
    return [clip, np.repeat(clip[middle : middle + 1], len(clip), axis=0), clip[::-1]]


def _moved(clip: np.ndarray) -> np.ndarray:
    """Return the absolute difference of each frame and the next, 0 for the last: float32 [T, S, S]."""
    moved = np.abs(np.diff(clip.astype(np.float32), axis=0)).mean(-1)
    return np.concatenate([moved, np.zeros_like(moved[:1])])


def figures_of(played: Sequence[np.ndarray], digit_THW: np.ndarray) -> list[float]:
    """Return the figures of ``MEASURES`` from the maps of a clip, of its still and of its reversal, each [T, h, w].

    The masks are averaged over the map's cells.
    """
    forwards, still, backwards = played
    digit = _averaged(digit_THW, *forwards.shape[1:])
    inner = forwards[1:-1]
    change = inner - backwards[::-1][1:-1]
    order = _share(np.abs(change), inner)
    direction = pearson(change, digit[2:] - digit[:-2]) if order > _ROUNDING else 0.0
    return [
        pearson(forwards[:-1], np.maximum(digit[:-1], digit[1:])),
        _share(still[:-1], forwards[:-1]),
        order,
        direction,
    ]


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    """Return the mean of one map as a share of another's, or 0 if the other is 0 everywhere."""
    return float(part.mean() / whole.mean()) if whole.any() else 0.0


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two arrays of the same shape, or 0 if one of them is constant."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    a, b = a - a.mean(), b - b.mean()
    length = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / length) if length > 0 else 0.0


def _averaged(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Reduce [T, H, W] to [T, height, width]; each cell is the mean over its area."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    return adaptive_avg_pool2d(torch.from_numpy(masks)[:, None], (height, width))[:, 0].numpy()


def interval(values_N: np.ndarray, pairs_N: np.ndarray) -> dict[str, float]:
    """Return the mean and its 95 % interval, by a bootstrap over pairs: a video and its reversal are dependent."""
    counts = np.bincount(pairs_N)
    sums = np.bincount(pairs_N, weights=values_N)
    drawn = np.random.default_rng(0).integers(len(counts), size=(_RESAMPLES, len(counts)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values_N.mean()), "low": float(low), "high": float(high)}
