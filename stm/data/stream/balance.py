"""Balanced sampling: rare classes are shown more often. Like the plan, it is a pure function of (seed, epoch).

An epoch keeps its length n, and class c gets a fixed number of its samples: in proportion to n_c ** (1 - strength),
rounded so that the numbers add up to n. Strength 0 keeps the manifest's frequencies, 1/2 weights classes by the square
root of their size, and 1 shows all classes equally often. Each class cycles through its videos and is reshuffled after
each pass. A video repeats only after all others of its class were shown as often, also across epochs.
"""

from __future__ import annotations

import numpy as np

from stm.data.stream.plan import mix, permute


def quotas(class_counts: np.ndarray, strength: float) -> np.ndarray:
    """How many samples of an epoch each class gets: int64 [K], with the sum of ``class_counts`` (int64 [K])."""
    counts = np.asarray(class_counts, dtype=np.int64)
    wanted = np.where(counts > 0, np.maximum(counts, 1) ** (1.0 - strength), 0.0)
    wanted *= counts.sum() / wanted.sum()
    whole = np.floor(wanted).astype(np.int64)
    # The largest remainders get one more. Ties go to the first class, so every machine rounds alike.
    most = np.argsort(-np.round(wanted - whole, 9), kind="stable")
    whole[most[: counts.sum() - whole.sum()]] += 1
    return whole


class Balanced:
    """The video drawn at each position of an epoch, for videos with these ``labels`` (int64 [n])."""

    def __init__(self, labels: np.ndarray, strength: float) -> None:
        self._of_class = np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels)
        self._first = np.cumsum(self._counts) - self._counts
        self._quotas = quotas(self._counts, strength)
        self._ends = np.cumsum(self._quotas)

    def draw(
        self, positions: np.ndarray, *, seed: int, epoch: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The videos at ``positions`` of an epoch, in 0 .. n-1, and their seeds: int64 and uint64, same shape."""
        places = permute(positions, int(self._ends[-1]), seed=seed, epoch=epoch)
        labels = np.searchsorted(self._ends, places, side="right")
        quota, count = self._quotas[labels], self._counts[labels]
        drawn = epoch * quota + places - (self._ends[labels] - quota)
        rounds, turns = drawn // count, drawn % count
        order = mix(seed, labels, 0xBA1A)
        turns = permute(turns, count, seed=order, epoch=rounds)
        videos = self._of_class[self._first[labels] + turns]
        return videos, mix(seed, epoch, videos, rounds, 0x5EED)
