"""Find the digit in a video of `stm demo`, with the generator that drew it.

The demo's videos depend only on a seed and their names, so a video is drawn again, and compared with the file.
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
"""Largest mean absolute difference, of 255, of a drawn video from its file; the codec causes 1, another seed 30."""


def draw(path: str, size: int, num_frames: int, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Draw a video of the demo again, from its name.

    Args:
        path: ``.../<split>/<class>-<number>.mp4``.
        size: side, px.
        num_frames: number of frames.
        seed: seed of the demo, 0 by default.

    Returns:
        frames: uint8 [num_frames, size, size, 3].
        opacity: float32 [num_frames, size, size], 1 where the digit covers the background, 0 elsewhere.
        pair: a name that a video and its reversal share.

    Raises:
        UserError: the demo writes no video with this name.
    """
    found = _NAME.fullmatch(Path(path).name)
    split = Path(path).parent.name
    if found is None or split not in _SPLITS:
        raise UserError(
            f"{path}: not a video of `stm demo` (<split>/<class>-<number>.mp4), so the place of a digit is unknown"
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
    """Raise ``UserError`` unless a file shows what was drawn; both are uint8 arrays of the same shape."""
    error = float(np.abs(drawn.astype(np.float32) - decoded).mean())
    if error > _MOST_ERROR:
        raise UserError(
            f"{path}: not the video that this seed draws (it differs by {error:.0f} of 255 on average); "
            "set --seed to the demo's"
        )
