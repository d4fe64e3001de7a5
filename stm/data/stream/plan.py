"""The sample plan: the order of the videos and their seeds. It is a pure function of (seed, epoch), without I/O.

Order. The k-th sample of an epoch is ``permute(k)``: a keyed permutation of 0..n-1 that is computed one element at a
time. No epoch's order is ever stored, any worker can compute any part of it, and a manifest of ten million videos
starts as fast as one of ten. It is a Feistel network over the smallest even number of bits that holds n, iterated
until the value is below n (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

Steps. A position is (epoch, samples consumed). Step s of an epoch takes the samples s*G .. (s+1)*G - 1, G the global
batch, whatever the number of workers; rank r takes the r-th contiguous share of them. The last step of an epoch is
padded with samples of weight 0 (video -1), so each epoch shows every video once and all ranks take equal steps.
Balanced sampling (``stm.data.stream.balance``) draws other videos for the same places.

Try: ``python -c "from stm.data.stream.plan import permute; print(permute(range(10), 10, seed=0, epoch=0))"``
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_ROUNDS = 8


@dataclass(frozen=True, order=True)
class Position:
    """How far training has come, independent of the number of workers."""

    epoch: int = 0
    offset: int = 0
    """Samples of the epoch already consumed."""


def mix(*parts: int | np.ndarray) -> np.ndarray:
    """Hash integers into uint64, element by element (the finaliser of SplitMix64 after each part).

    Broadcasts like arithmetic. Unlike Python's ``hash`` it is the same in every process and version.
    """
    state = np.asarray(0x243F6A8885A308D3, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = state + np.asarray(part).astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def permute(
    positions: Sequence[int] | np.ndarray,
    num_videos: int | np.ndarray,
    *,
    seed: int | np.ndarray,
    epoch: int | np.ndarray,
) -> np.ndarray:
    """The manifest row at each of ``positions`` (0 .. num_videos-1) of an epoch: int64, same shape.

    ``num_videos``, ``seed`` and ``epoch`` may also be arrays of the same shape, with a value for each position.
    """
    values = np.asarray(positions, dtype=np.int64).astype(np.uint64)
    size = np.asarray(num_videos, dtype=np.uint64)
    if (values >= size).any():
        raise ValueError(f"position {int(values.max())} of an epoch of {num_videos} videos")
    bits = np.frexp(np.maximum(size, 2) - np.uint64(1))[1]  # enough for the largest position
    half = ((bits + 1) // 2).astype(np.uint64)
    keys = [mix(seed, epoch, round_number) for round_number in range(_ROUNDS)]

    def encrypt(block: np.ndarray, of: np.ndarray | slice) -> np.ndarray:
        shift = half[of] if half.ndim else half
        low = (np.uint64(1) << shift) - np.uint64(1)
        left, right = block >> shift, block & low
        for key in keys:
            left, right = right, left ^ (mix(right, key[of] if key.ndim else key) & low)
        return (left << shift) | right

    result = encrypt(values, slice(None))
    outside = result >= size
    while outside.any():
        result[outside] = encrypt(result[outside], outside)
        outside = result >= size
    return result.astype(np.int64)


def sample_seed(videos: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """The seed of every random draw for a video in an epoch: uint64, same shape."""
    return mix(seed, epoch, videos, 0x5EED)


def steps_per_epoch(num_videos: int, global_batch: int) -> int:
    """Steps of a whole epoch, including the padded one."""
    return -(-num_videos // global_batch)


def step_of(position: Position, num_videos: int, global_batch: int) -> int:
    """Steps taken since the start of training at ``position``."""
    return position.epoch * steps_per_epoch(num_videos, global_batch) + -(
        -position.offset // global_batch
    )


def validates(epochs_done: int, every_epochs: int, num_epochs: int) -> bool:
    """Whether validation follows the end of an epoch: every ``every_epochs`` epochs and always after the last."""
    return epochs_done % every_epochs == 0 or epochs_done == num_epochs


@dataclass(frozen=True)
class Share:
    """The samples of one rank in one step. Every array has the length of the local batch B = ceil(G / world size)."""

    epoch: int
    offset_end: int
    """Samples of the epoch consumed after this step; at the epoch's end the number of videos."""
    videos: np.ndarray
    """int64 [B]: row numbers among the usable videos; -1 is padding."""
    seeds: np.ndarray
    """uint64 [B]."""

    @property
    def weights(self) -> np.ndarray:
        """float32 [B]: 0 for padding, else 1."""
        return (self.videos >= 0).astype(np.float32)


@dataclass(frozen=True)
class Round:
    """The samples of some ranks in k successive steps of one epoch. The local batch is B = ceil(G / world size)."""

    epoch: int
    offset_ends: np.ndarray
    """int64 [k]: samples of the epoch consumed after each step; at the epoch's end the number of videos."""
    videos: np.ndarray
    """int64 [R, k, B]: row numbers among the usable videos, for R ranks; -1 is padding."""
    seeds: np.ndarray
    """uint64 [R, k, B]."""


def rounds(
    num_videos: int,
    *,
    global_batch: int,
    world_size: int,
    seed: int,
    start: Position = Position(),
    num_epochs: int = 1,
    shuffle: bool = True,
    draw: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None,
    ranks: range | None = None,
    num_steps: Callable[[int], int] = lambda number: 1,
) -> Iterator[Round]:
    """The plan from ``start`` to the end of the last epoch for ``ranks`` (None is all), several steps at a time.

    Round n has ``num_steps(n)`` steps, or fewer at the epoch's end. Nothing is computed for other ranks. If
    ``world_size`` does not divide ``global_batch``, the last ranks get padding; the samples of a step stay the same.
    ``draw`` (`Balanced.draw`) replaces the order and the seeds.
    """
    local_batch = -(-global_batch // world_size)
    ranks = range(world_size) if ranks is None else ranks
    within_RB = np.arange(ranks.start * local_batch, ranks.stop * local_batch).reshape(
        len(ranks), local_batch
    )
    epoch, offset, number = start.epoch, start.offset, 0
    while epoch < num_epochs:
        while offset < num_videos:
            left = -(-(num_videos - offset) // global_batch)
            begins_K = offset + global_batch * np.arange(min(num_steps(number), left))
            places_RKB = begins_K[:, None] + within_RB[:, None]
            exists_RKB = (places_RKB < num_videos) & (within_RB < global_batch)[:, None]
            videos_RKB = np.full(places_RKB.shape, -1, dtype=np.int64)
            seeds_RKB = np.full(places_RKB.shape, -1, dtype=np.int64).view(np.uint64)
            places = places_RKB[exists_RKB]
            if draw is not None:
                videos, seeds = draw(places, seed=seed, epoch=epoch)
            else:
                videos = places
                if shuffle:
                    videos = permute(places, num_videos, seed=seed, epoch=epoch)
                seeds = sample_seed(videos, seed=seed, epoch=epoch)
            videos_RKB[exists_RKB], seeds_RKB[exists_RKB] = videos, seeds
            offset_ends = np.minimum(begins_K + global_batch, num_videos)
            yield Round(epoch, offset_ends, videos_RKB, seeds_RKB)
            offset, number = int(offset_ends[-1]), number + 1
        epoch, offset = epoch + 1, 0


def shares(
    num_videos: int, *, global_batch: int, world_size: int, seed: int, **order: Any
) -> Iterator[Share]:
    """Yield every rank's share of every step, one by one; the arguments are those of `rounds`.

    Shares are ordered by step and then by rank: share i belongs to rank i % world_size.
    """
    # Hashing thousands of numbers costs little more than hashing one.
    at_once = max(1, 4096 // global_batch)
    size = {"global_batch": global_batch, "world_size": world_size, "seed": seed}
    for each in rounds(num_videos, **size, **order, num_steps=lambda number: at_once):  # type: ignore[arg-type]
        for step, offset_end in enumerate(each.offset_ends.tolist()):
            for videos, seeds in zip(each.videos[:, step], each.seeds[:, step], strict=True):
                yield Share(each.epoch, offset_end, videos, seeds)
