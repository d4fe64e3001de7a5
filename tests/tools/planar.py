"""Compare planar 4:2:0 clips with RGB in CPU time and colours: ``python -m tests.tools.planar DIR``.

RGB is what a decoding task does: convert, crop the centre square, resize. Planar crops and resizes three planes, luma
to 224 px and chroma to 112 px, and leaves the conversion to the device. The time is CPU time of one thread, without
decoding.
"""

from __future__ import annotations

import sys
import time
from itertools import islice

import av
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from stm.data.decode.resize import resize_clip
from stm.data.finding import find_videos

SIZE, NUM_FRAMES, ROUNDS = 224, 8, 3


def rgb(frames: list[av.VideoFrame], side: int, top: int, left: int) -> np.ndarray:
    """Return uint8 [K, SIZE, SIZE, 3]."""
    clip = [
        frame.to_ndarray(format="rgb24")[top : top + side, left : left + side] for frame in frames
    ]
    return resize_clip(np.stack(clip), SIZE)


def planar(frames: list[av.VideoFrame], side: int, top: int, left: int) -> tuple[Tensor, Tensor]:
    """Return luma, uint8 [K, 1, SIZE, SIZE], and chroma, uint8 [K, 2, SIZE / 2, SIZE / 2]."""

    def cut(plane: int, by: int) -> np.ndarray:
        planes = [frame.planes[plane] for frame in frames]
        whole = [np.frombuffer(p, np.uint8).reshape(-1, p.line_size) for p in planes]  # type: ignore[call-overload]
        rows, columns = (slice(start // by, (start + side) // by) for start in (top, left))
        return np.stack([image[rows, columns] for image in whole])

    luma = torch.from_numpy(cut(0, 1))[:, None]
    chroma = torch.from_numpy(np.stack([cut(1, 2), cut(2, 2)], axis=1))
    small = {"mode": "bilinear", "antialias": True}
    return (
        interpolate(luma, (SIZE, SIZE), **small),  # type: ignore[arg-type]
        interpolate(chroma, (SIZE // 2, SIZE // 2), **small),  # type: ignore[arg-type]
    )


def on_the_device(luma: Tensor, chroma: Tensor, full_range: bool) -> Tensor:
    """Convert to float32 [K, SIZE, SIZE, 3] by BT.601, the matrix of sources that name none."""
    y = luma[:, 0].float()
    u, v = (interpolate(chroma.float(), (SIZE, SIZE), mode="bilinear") - 128).unbind(1)
    if not full_range:
        y, u, v = (y - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    colours = (y + 1.402 * v, y - 0.344136 * u - 0.714136 * v, y + 1.772 * u)
    return torch.stack(colours, -1).clamp(0, 255).round()


def main() -> None:
    torch.set_num_threads(1)
    times: dict[str, list[float]] = {"rgb": [], "planar": []}
    differences = []
    for path in find_videos([sys.argv[1]])[::4]:
        with av.open(path) as container:
            frames = list(islice(container.decode(video=0), 0, 6 * NUM_FRAMES, 6))
        if frames[0].format.name not in ("yuv420p", "yuvj420p"):
            continue
        width, height = frames[0].width, frames[0].height
        side = min(width, height) // 2 * 2
        place = side, (height - side) // 4 * 2, (width - side) // 4 * 2
        for _ in range(ROUNDS):
            for name, way in (("rgb", rgb), ("planar", planar)):
                begun = time.process_time()
                way(frames, *place)
                times[name].append(1000 * (time.process_time() - begun))
        made = on_the_device(*planar(frames, *place), frames[0].format.name == "yuvj420p")
        differences.append((torch.from_numpy(rgb(frames, *place)).float() - made).abs())
    away = torch.cat([difference.flatten() for difference in differences])
    print(f"{len(differences)} videos; ms per clip: ", end="")
    print(", ".join(f"{name} {np.median(values):.2f}" for name, values in times.items()))
    print(
        f"difference in levels: mean {away.mean():.2f}, largest {away.max():.0f}; above 1: "
        f"{(away > 1).float().mean():.0%} of values"
    )


if __name__ == "__main__":
    main()
