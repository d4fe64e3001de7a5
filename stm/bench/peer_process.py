"""Run a peer in a separate process, which `stm.bench.peers` starts with the Python of the peer's environment.

    PYTHON peer_process.py "torchcodec exact" decode JSON

stm need not be installed there: only the peer, NumPy and PyTorch are imported. The first line of the output names the
peer and its version, or tells why it is not available. One line follows for each line of input (`decode`, `model`), or
for each batch (`loader`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

Clip = Callable[[str, list[int]], np.ndarray]
"""A function of path and frame numbers that returns the centre square of the frames, uint8 [K, size, size, 3]."""

SIDE = 16
"""Side of a thumbnail, px."""


def thumbnails(clip: np.ndarray) -> np.ndarray:
    """Reduce uint8 [K, S, S, 3] to float32 [K, D], at most `SIDE` x `SIDE` means, by which frames are compared."""
    side = min(SIDE, clip.shape[1])
    block = clip.shape[1] // side
    edge = side * block
    blocks = clip[:, :edge, :edge].reshape(len(clip), side, block, side, block, 3)
    return blocks.mean(axis=(2, 4), dtype=np.float32).reshape(len(clip), -1)


def torchcodec(mode: str, size: int) -> Clip:
    """Return a function that decodes with ``VideoDecoder`` on one thread, and resizes in PyTorch, antialiased."""
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)

    def clip(path: str, indices: list[int]) -> np.ndarray:
        decoder = VideoDecoder(path, num_ffmpeg_threads=1, seek_mode=mode)
        frames = decoder.get_frames_at(indices).data  # uint8 [K, 3, H, W]
        height, width = frames.shape[-2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = frames[..., top : top + side, left : left + side]
        small = torch.nn.functional.interpolate(
            square, (size, size), mode="bilinear", antialias=True
        )
        return small.permute(0, 2, 3, 1).contiguous().numpy()

    return clip


def mmaction2(size: int) -> Clip:
    """Return a function that applies the transforms of mmaction2's recipes for decord, on one thread."""
    from mmaction.datasets.transforms import CenterCrop, DecordDecode, DecordInit, Resize

    transforms = [DecordInit(num_threads=1), DecordDecode(), Resize((-1, size)), CenterCrop(size)]

    def clip(path: str, indices: list[int]) -> np.ndarray:
        results: dict[str, Any] = {"filename": path, "frame_inds": np.array(indices)}
        for transform in transforms:
            results = transform(results)
        return np.stack(results["imgs"])

    return clip


CLIPS: dict[str, Callable[[int], Clip]] = {
    "torchcodec exact": lambda size: torchcodec("exact", size),
    "torchcodec approximate": lambda size: torchcodec("approximate", size),
    "mmaction2": mmaction2,
}
"""For each peer, a function of the size that returns its `Clip`."""


def decode(clip: Clip, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the CPU time (ms) of all threads of this process, and thumbnails, for each line ``[path, indices]``."""
    for line in lines:
        path, indices = json.loads(line)
        begun = time.process_time()
        try:
            frames = clip(path, indices)
        except Exception as error:  # a refused file is a result
            yield {"error": str(error)[:200] or type(error).__name__}
            continue
        ms = 1000 * (time.process_time() - begun)
        yield {"ms": ms, "thumbnails": thumbnails(frames).round(1).tolist()}


class Clips:
    """A map-style dataset for PyTorch's DataLoader; each sample is a path and frame numbers."""

    def __init__(self, peer: str, size: int, samples: list[tuple[str, list[int]]]) -> None:
        self._peer, self._size, self._samples = peer, size, samples
        self._clip: Clip | None = None

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> np.ndarray:
        if self._clip is None:  # in the worker, because a decoder cannot be pickled
            self._clip = CLIPS[self._peer](self._size)
        return self._clip(*self._samples[number])


def loader(peer: str, size: int, samples: str, batch_size: int, cores: int) -> Iterator[int]:
    """Yield the size of each of a DataLoader's batches; ``samples`` is a JSON file."""
    from torch.utils.data import DataLoader

    with open(samples) as file:
        clips: Any = Clips(peer, size, json.load(file))
    for batch in DataLoader(
        clips, batch_size=batch_size, num_workers=cores, multiprocessing_context="spawn"
    ):
        yield len(batch)


def tsm(depth: int, num_frames: int) -> Any:
    """Return mmaction2's TSM with 174 classes and random weights, which maps [B, T, 3, H, W] to [B, 174]."""
    name = "mmaction.models.localizers.drn"
    if importlib.util.find_spec("mmaction") and not _has_drn():
        # mmaction2 1.2.0 imports this package but does not contain it. TSM does not need it.
        sys.modules[name] = ModuleType(name)
        sys.modules[f"{name}.drn"] = inner = ModuleType(f"{name}.drn")
        inner.DRN = type("DRN", (), {})  # type: ignore[attr-defined]
    import mmaction.models  # noqa: F401  registers the networks
    from mmaction.registry import MODELS
    from torch import nn

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = MODELS.build(
                {"type": "ResNetTSM", "depth": depth, "num_segments": num_frames, "shift_div": 8}
            )
            self.head = MODELS.build(
                {
                    "type": "TSMHead",
                    "num_classes": 174,
                    "in_channels": 2048,
                    "num_segments": num_frames,
                    "dropout_ratio": 0.5,
                    "is_shift": True,
                }
            )

        def forward(self, clips: Any) -> Any:
            return self.head(self.backbone(clips.flatten(0, 1)), num_segs=num_frames)

    return Network()


def _has_drn() -> bool:
    (folder,) = importlib.util.find_spec("mmaction").submodule_search_locations or [""]  # type: ignore[union-attr]
    return os.path.isdir(os.path.join(folder, "models", "localizers", "drn"))


def model(
    mode: str,
    depth: int,
    num_frames: int,
    batch_size: int,
    size: int,
    threads: int,
    lines: Iterable[str],
) -> Iterator[bool]:
    """Run one step of training (SGD with momentum) or inference in float32 for each line, and yield True after it."""
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = tsm(depth, num_frames)
    clips = torch.randn(batch_size, num_frames, 3, size, size)
    if mode == "inference":
        network.eval()
        for _ in lines:
            with torch.inference_mode():
                network(clips)
            yield True
        return
    network.train()
    labels = torch.zeros(batch_size, dtype=torch.int64)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4)
    for _ in lines:
        torch.nn.functional.cross_entropy(network(clips), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        yield True


def main(peer: str, task: str, settings: dict[str, Any]) -> None:
    """Write the answers to the standard output; what the peer itself prints goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    package = peer.split()[0]
    try:
        from importlib.metadata import version

        clip = CLIPS[peer](settings["size"]) if task != "model" else None
        if task == "model":
            tsm(settings["depth"], settings["num_frames"])
        print(json.dumps({"peer": f"{package} {version(package)}"}), file=answers)
    except Exception as error:  # the package may fail in any way
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"[:300]}), file=answers)
        return
    found: Iterable[Any]
    if task == "decode":
        assert clip is not None
        found = decode(clip, sys.stdin)
    elif task == "loader":
        found = loader(peer, **settings)
    else:
        found = model(**settings, lines=sys.stdin)
    for answer in found:
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
