"""Checkpoints of networks that were never trained: their answers are as definite as a trained one's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig
from stm.data.stream.plan import Position
from stm.model import build_model
from tests.model import reference

CLASSES = ["left", "right", "up", "down", "grow", "shrink"]
T, SIZE = 4, 32


def write_checkpoint(
    directory: Path,
    seed: int = 0,
    classes: list[str] | None = None,
    *,
    model: dict[str, Any] | None = None,
    **data: Any,
) -> str:
    """A small network with random weights and statistics in ``directory``; returns its path.

    ``model`` and ``data`` are further settings of those sections; it is STM where they do not say otherwise.
    """
    classes = classes or CLASSES
    config = Config(
        model=ModelConfig(depth=26, width=16, **(model or {})),
        data=DataConfig(num_segments=T, size=SIZE, **data),
    )
    plugin = checkpoints.load_plugin(config)
    torch.manual_seed(seed)
    network = build_model(**checkpoints.model_arguments(config), num_classes=len(classes))
    reference.randomise(network)
    _make_undecided(network)
    meta = checkpoints.Meta(
        config=config.to_dict(),
        classes=classes,
        position=Position(1, 0),
        step=7,
        fingerprint="f" * 64,
        dataset="synthetic",
        metrics={"val_top1": 0.5, "val_num_videos": 16.0},
        versions={"stm": "0.1.0"},
    )
    directory.mkdir(parents=True, exist_ok=True)
    checkpoints.write(directory, network, {}, meta, plugin=plugin)
    return str(directory)


@torch.no_grad()
def _make_undecided(model: torch.nn.Module) -> None:
    """Scale the logits to about 1, so that every score is far from 0 and from 1."""
    logits = model.eval()(torch.randn(4, T, 3, SIZE, SIZE))
    model.fc.weight /= logits.std()
    model.fc.bias /= logits.std()
