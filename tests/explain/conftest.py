"""A folder of the demo's videos with a manifest, and untrained checkpoints: no cluster is needed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig
from stm.data.manifest import SCHEMA, Manifest
from stm.data.stream.plan import Position
from stm.data.synthetic import CLASSES, write_videos
from stm.model import build_model

NUM_FRAMES = 20


@pytest.fixture(scope="session")
def demo_videos(tmp_path_factory) -> Path:
    """Eight test videos, one of each class, and ``val.parquet``."""
    root = tmp_path_factory.mktemp("demo")
    write_videos(root, num_train=1, num_test=8, size=72, num_frames=NUM_FRAMES)
    defaults = {"int": 0, "flo": 12.0, "str": ""}
    rows = []
    for path in sorted((root / "videos" / "val").glob("*.mp4")):
        row = {field.name: defaults[str(field.type)[:3]] for field in SCHEMA}
        row |= {"video_id": path.name, "path": str(path), "num_frames": NUM_FRAMES, "status": "ok"}
        row |= {"width": 72, "height": 72, "label": CLASSES.index(path.name.split("-")[0])}
        rows.append(row)
    manifest = Manifest(pa.Table.from_pylist(rows, SCHEMA), CLASSES, "demo", flip=False)
    manifest.write(root / "val.parquet")
    return root


@pytest.fixture(scope="session")
def demo_checkpoints(tmp_path_factory) -> dict[str, str]:
    """Untrained networks, whose answers are as definite as trained ones': variant -> checkpoint."""
    found = {}
    for variant in ("stm", "tsn"):
        folder = tmp_path_factory.mktemp(variant)
        torch.manual_seed(0)
        config = Config(
            model=ModelConfig(variant=variant, depth=26, width=16),
            data=DataConfig(num_segments=4, size=48),
        )
        model = build_model(**checkpoints.model_arguments(config), num_classes=len(CLASSES))
        torch.nn.init.normal_(model.fc.weight)
        meta = checkpoints.Meta(
            config=config.to_dict(),
            classes=list(CLASSES),
            position=Position(1, 0),
            step=1,
            fingerprint="f",
        )
        checkpoints.write(folder, model, {}, meta)
        found[variant] = str(folder)
    return found
