"""Hold out whole groups for validation, and find groups that are in two splits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

from stm.data.annotations.common import Entry
from stm.plural import counted


def hold_out(entries: list[Entry], fraction: float, seed: int) -> tuple[list[Entry], list[Entry]]:
    """Split into (train, val), both in the given order, with `fraction` of each class in val.

    A group is never divided; a video without a group is its own group. The result depends only on
    the ids, groups, labels, fraction and seed, not on the order of the entries. A class with two or
    more groups has videos on both sides, if its groups allow it.
    """
    groups: dict[str, Counter[int]] = defaultdict(Counter)
    for entry in entries:
        groups[_group_key(entry)][entry.label] += 1
    sizes = Counter(entry.label for entry in entries)
    target = {label: fraction * size for label, size in sizes.items()}
    held: Counter[int] = Counter()
    val: set[str] = set()
    order = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest())
    for key in order:
        miss = sum(abs(target[label] - held[label]) for label in groups[key])
        miss_with = sum(abs(target[label] - held[label] - n) for label, n in groups[key].items())
        if miss_with < miss:
            val.add(key)
            held.update(groups[key])
    for label in sorted(sizes):  # a class whose groups are all larger than its share
        if held[label] == 0:
            # Only groups that leave training videos for each of their classes.
            fitting = [
                key
                for key in order
                if label in groups[key]
                and all(held[other] + n < sizes[other] for other, n in groups[key].items())
            ]
            if fitting:
                smallest = min(fitting, key=lambda key: groups[key].total())
                val.add(smallest)
                held.update(groups[smallest])
    train_entries = [entry for entry in entries if _group_key(entry) not in val]
    return train_entries, [entry for entry in entries if _group_key(entry) in val]


def _group_key(entry: Entry) -> str:
    return f"group {entry.group}" if entry.group else f"video {entry.video_id}"


def find_leaks(splits: dict[str, list[Entry]]) -> list[str]:
    """Return a warning for each pair of splits that share a group: the accuracy is then too high."""
    counts = {
        name: Counter(entry.group for entry in entries if entry.group)
        for name, entries in splits.items()
    }
    names = list(splits)
    warnings = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = sorted(counts[first].keys() & counts[second].keys())
            if shared:
                group = shared[0]
                warnings.append(
                    f"{first} and {second} share {counted(len(shared), 'group')}, such as {group!r} "
                    f"({counted(counts[first][group], 'video')} in {first}, {counts[second][group]} in "
                    f"{second}): accuracy on {second} will be too high"
                )
    return warnings
