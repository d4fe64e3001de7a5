"""Statistics of a manifest's videos: their status, formats, sizes and lengths."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from stm.data.manifest import OK, Manifest


@dataclass(frozen=True)
class Health:
    """``status`` counts all rows, the other fields only usable ones. Counters begin with the most frequent value."""

    status: dict[str, int]
    codecs: dict[str, int]
    sizes: dict[str, int]
    """Number of videos by "width x height" in pixels."""
    rates: dict[str, int]
    """Number of videos by frames per second, rounded; "unknown" for frame folders."""
    frames_N: np.ndarray
    """Numbers of frames, int32 [usable videos]."""
    seconds_N: np.ndarray
    """Lengths in seconds, float [usable videos with a known rate]."""
    not_for_decord: dict[str, int]
    """Number of videos by the reason why decord is not used (the manifest's ``guard``)."""


def inspect(manifest: Manifest) -> Health:
    """Return the statistics of a manifest."""
    usable = manifest.table.take(manifest.usable)
    rows = usable.select(["codec", "width", "height", "guard"]).to_pylist()
    frames = usable["num_frames"].to_numpy()
    rates = usable["fps"].to_numpy()
    known = rates > 0
    return Health(
        status=_counted(manifest.table["status"].to_pylist()),
        codecs=_counted([row["codec"] for row in rows]),
        sizes=_counted([f"{row['width']} × {row['height']}" for row in rows]),
        rates=_counted([f"{rate:.3g}" if rate > 0 else "unknown" for rate in rates.tolist()]),
        frames_N=frames,
        seconds_N=frames[known] / rates[known],
        not_for_decord=_counted([row["guard"] for row in rows if row["guard"]]),
    )


def num_unusable(health: Health) -> int:
    """Return the number of rows that indexing found unusable."""
    return sum(count for status, count in health.status.items() if status != OK)


def _counted(values: list[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
