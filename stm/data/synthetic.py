"""Short H.264 videos whose classes differ only in the order of frames, for the demo and the tests.

A handwritten digit (scikit-learn's 8x8 images, which ship in the package) moves over a textured background. The eight
classes form four pairs, and one class of a pair is the other played backwards: the frames are the same, only their
order differs. A network without temporal information can only guess within a pair: 50 %.

Try: ``python -c "from stm.data.synthetic import write_videos; write_videos('videos', num_train=16, num_test=8)"``
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

CLASSES = ("left", "right", "up", "down", "grow", "shrink", "clockwise", "anticlockwise")
"""Class 2k + 1 is class 2k played backwards."""

_SUPERSAMPLE_EDGE = 8  # a digit of scikit-learn is 8 x 8


def write_videos(
    root: str | Path,
    *,
    num_train: int,
    num_test: int,
    size: int = 72,
    num_frames: int = 24,
    seed: int = 0,
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write ``root/videos/<split>/<class>-<number>.mp4`` and the annotation file ``root/annotations.csv``.

    Both counts are rounded up to whole sets of the eight classes. Test videos come in exact pairs, each with its own
    reversal. ``tick(done, total)`` is called after each file. Returns the annotation file (columns path, label,
    split; paths relative to ``root``).
    """
    root = Path(root)
    counts = {"train": -(-num_train // len(CLASSES)), "val": -(-num_test // len(CLASSES))}
    total = sum(counts.values()) * len(CLASSES)
    rows: list[tuple[str, str, str]] = []
    for split_number, (split, count) in enumerate(counts.items()):
        (root / "videos" / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            for pair in range(len(CLASSES) // 2):
                generator = np.random.default_rng([seed % 2**64, split_number, number, pair])
                frames = draw_video(pair, generator, size=size, num_frames=num_frames)
                backwards = frames[::-1]
                if split == "train":  # the two videos of a pair share only the kind of motion
                    other = np.random.default_rng([seed % 2**64, split_number, number, pair, 1])
                    backwards = draw_video(pair, other, size=size, num_frames=num_frames)[::-1]
                for name, clip in zip(
                    CLASSES[2 * pair : 2 * pair + 2], (frames, backwards), strict=True
                ):
                    path = root / "videos" / split / f"{name}-{number:04d}.mp4"
                    encode(path, clip)
                    rows.append((str(path.relative_to(root)), name, split))
                    tick(len(rows), total)
    annotations = root / "annotations.csv"
    with annotations.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        writer.writerows(rows)
    return annotations


def draw_video(
    pair: int, generator: np.random.Generator, *, size: int, num_frames: int
) -> np.ndarray:
    """One video of the first class of a pair: uint8 [num_frames, size, size, 3]."""
    digit = digits()[generator.integers(len(digits()))]
    tint = 0.5 + 0.5 * generator.random(3)
    background = texture(size, generator)
    return np.stack(
        [
            paste(background, digit, tint, x, y, edge)
            for x, y, edge in _path(pair, generator, size, num_frames)
        ]
    )


def draw_opacity(
    pair: int, generator: np.random.Generator, *, size: int, num_frames: int
) -> np.ndarray:
    """Opacity of the digit in ``draw_video``: float32 [num_frames, size, size], 1 where it covers the background.
    Draws from ``generator`` as ``draw_video`` does and pastes a white digit on black."""
    digit = digits()[generator.integers(len(digits()))]
    generator.random(3)  # the tint
    black = np.zeros_like(texture(size, generator))
    drawn = [
        paste(black, digit, np.ones(3), x, y, edge)[..., 0]
        for x, y, edge in _path(pair, generator, size, num_frames)
    ]
    return np.stack(drawn).astype(np.float32) / 255


def _path(
    pair: int, generator: np.random.Generator, size: int, num_frames: int
) -> Iterator[tuple[float, float, float]]:
    """Centre (x, y) and edge of the digit in each frame, px, for the first class of a pair."""
    edge = size * generator.uniform(0.3, 0.4)
    time = np.linspace(-0.5, 0.5, num_frames)
    travel = size * generator.uniform(0.45, 0.6)
    drift = size * generator.uniform(-0.12, 0.12, size=2)
    x = np.full(num_frames, size / 2 + drift[0])
    y = np.full(num_frames, size / 2 + drift[1])
    edges = np.full(num_frames, edge)
    if pair == 0:
        x = x - travel * time
    elif pair == 1:
        y = y - travel * time
    elif pair == 2:
        edges = edge * 2.0 ** (1.6 * time)
    else:
        angle = 2 * np.pi * (generator.random() + generator.uniform(0.6, 0.9) * time)
        x = x + 0.27 * size * np.cos(angle)
        y = y + 0.27 * size * np.sin(angle)
    yield from zip(x.tolist(), y.tolist(), edges.tolist(), strict=True)


def paste(
    background: np.ndarray, digit: np.ndarray, tint: np.ndarray, x: float, y: float, edge: float
) -> np.ndarray:
    """The background with the digit drawn over it, bilinear, centred at (x, y): uint8 [size, size, 3]."""
    size = len(background)
    pixels = np.arange(size) + 0.5
    last = (
        _SUPERSAMPLE_EDGE + 1
    )  # of the digit padded by one pixel, so that its outside is transparent

    def weights(centre: float) -> np.ndarray:
        """Bilinear interpolation along one axis as a matrix [size, 10]."""
        at = np.clip(
            (pixels - centre) / edge * _SUPERSAMPLE_EDGE + _SUPERSAMPLE_EDGE / 2 + 0.5, 0, last
        )
        return np.clip(1 - np.abs(at[:, None] - np.arange(last + 1)), 0, None)

    alpha = (weights(y) @ np.pad(digit, 1) @ weights(x).T)[:, :, None]
    return np.rint(background * (1 - alpha) + 255 * tint * alpha).astype(np.uint8)


def texture(size: int, generator: np.random.Generator) -> np.ndarray:
    """A smooth random texture, dark enough for a digit to show: float [size, size, 3] in 0 .. 140."""
    coarse = generator.random((6, 6, 3))
    at = np.linspace(0, 5, size)
    mix = np.clip(1 - np.abs(at[:, None] - np.arange(6)), 0, None)
    return 140 * np.einsum("ia,jb,abc->ijc", mix, mix, coarse)


@functools.cache
def digits() -> np.ndarray:
    """Handwritten digits, their ink as opacity: float [1797, 8, 8] in 0 .. 1."""
    from sklearn.datasets import load_digits

    return load_digits().images / 16.0


def encode(path: Path, frames: np.ndarray, fps: int = 12) -> None:
    """Write uint8 [K, H, W, 3] as an H.264 file with a key frame every 12, H and W even."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"preset": "veryfast", "crf": "20", "g": "12"}
        )
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                )
            )
        container.mux(stream.encode())
