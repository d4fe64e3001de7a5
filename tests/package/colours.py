"""A network whose answers are known: which of three colours a video shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stm.checkpoint import format as checkpoints
from stm.checkpoint.network import load_network
from stm.model.inputs import normalise
from tests.package.untrained import SIZE, T, write_checkpoint
from tests.videos import write_video

COLOURS = {"red": (200, 30, 40), "green": (40, 180, 60), "blue": (50, 60, 190)}
FPS = 25


@torch.no_grad()
def write_colour_checkpoint(directory: Path, **data: Any) -> str:
    """The network of ``untrained``, whose last layer answers with the colour whose features are nearest."""
    path = write_checkpoint(directory, classes=list(COLOURS), **data)
    network = load_network(path).to("cpu")
    generator = np.random.default_rng(0)
    clips = np.stack([[frame(name, generator, SIZE, SIZE) for _ in range(T)] for name in COLOURS])
    features: list[torch.Tensor] = []
    hook = network.fc.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    network(normalise(clips, torch.device("cpu")))
    hook.remove()
    means_KC = features[0].float().view(len(COLOURS), T, -1).mean(1)
    scale = 20 / torch.pdist(means_KC).min() ** 2
    network.fc.weight.copy_(scale * means_KC)
    network.fc.bias.copy_(-scale * means_KC.square().sum(1) / 2)
    checkpoints.write(Path(path), network, {}, checkpoints.read_meta(path))
    return path


def frame(name: str, generator: np.random.Generator, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: the colour, under a little noise."""
    noise = generator.normal(0, 4, (height, width, 3))
    return np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)


def write_colours(
    path: str | os.PathLike[str], plan: Sequence[tuple[str, float]], **more: Any
) -> str:
    """A video of (colour, seconds) one after the other, at 25 frames a second."""
    generator = np.random.default_rng(1)

    def frames() -> Iterator[np.ndarray]:
        for name, seconds in plan:
            for _ in range(round(seconds * FPS)):
                yield frame(name, generator, 64, 48)

    return str(write_video(path, frames=frames(), fps=FPS, **more))
