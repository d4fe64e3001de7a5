"""Where the digit is in a video of `stm demo`, told by the generator that drew it.

The demo's videos follow from a seed and their names, so a video's masks are drawn again, and checked against the file.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from stm.data import synthetic
from stm.errors import UserError

_NAME = re.compile(rf"({'|'.join(synthetic.CLASSES)})-(\d+)\.mp4")
_SPLITS = ("train", "val")
_MOST_ERROR = 8.0
"""Mean absolute difference, of 255, between a drawn video and its file; the codec leaves about 1, another seed 30."""


def draw(path: str, size: int, num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw a video of the demo again, by its name.

    Args:
        path: ``.../<split>/<class>-<number>.mp4``.
        size: Side in pixels.
        num_frames: Frames.
        seed: Of the demo, 0 unless it was given another.

    Returns:
        frames: uint8 [num_frames, size, size, 3].
        opacity: float32 [num_frames, size, size], 1 where the digit covers the background, 0 where it is not.
        pair: what a video and its own reversal have in common.

    Raises:
        UserError: The demo writes no video of this name.
    """
    found = _NAME.fullmatch(Path(path).name)
    split = Path(path).parent.name
    if found is None or split not in _SPLITS:
        raise UserError(
            f"{path}: not a video of `stm demo` (<split>/<class>-<number>.mp4), whose digit is known"
        )
    label, number = synthetic.CLASSES.index(found[1]), int(found[2])
    pair, backwards = divmod(label, 2)
    key = [seed, _SPLITS.index(split), number, pair]
    if split == "train" and backwards:
        key.append(1)
    frames = synthetic.draw_video(
        pair, np.random.default_rng(key), size=size, num_frames=num_frames
    )
    masks = synthetic.draw_opacity(
        pair, np.random.default_rng(key), size=size, num_frames=num_frames
    )
    order = slice(None, None, -1 if backwards else 1)
    return frames[order], masks[order], f"{pair}-{number}"


def require_same(path: str, drawn: np.ndarray, decoded: np.ndarray) -> None:
    """``UserError`` unless a file shows what was drawn: uint8 arrays of one shape."""
    error = float(np.abs(drawn.astype(np.float32) - decoded).mean())
    if error > _MOST_ERROR:
        raise UserError(
            f"{path}: not the video that this seed draws (it differs by {error:.0f} of 255 on average); "
            "--seed is the demo's"
        )
