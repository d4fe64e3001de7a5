"""Makes the facts of an evaluation without a network: scores drawn at random around the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from stm.checkpoint.format import Meta
from stm.config import Config
from stm.data.manifest import SCHEMA, Manifest
from stm.data.stream.plan import Position
from stm.report.facts import Facts
from stm.report.record import Series, TrainingRecord
from stm.report.time_use import TimeUse
from stm.scoring.inference import Scores
from stm.scoring.metrics import measure
from stm.scoring.orders import ORDERS


def make_facts(num_classes=5, num_videos=40, classes=None, paths=("gone.mp4",), seed=0, **changes):
    """`Facts` of ``num_videos``; classes of a group of four are confused with each other. Row 0 is unreadable."""
    generator = np.random.default_rng(seed)
    classes = classes or [f"class {number:03d}" for number in range(num_classes)]
    labels = np.arange(num_videos) % num_classes
    groups = np.arange(num_classes) % max(1, num_classes // 4)
    logits = generator.normal(0, 1, (num_videos, num_classes))
    logits += 2.0 * (groups[labels][:, None] == groups[None, :])
    logits[np.arange(num_videos), labels] += generator.normal(2.0, 1.0, num_videos)
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    readable = np.arange(num_videos) > 0
    scores[~readable] = 0
    ok = readable.astype(int)
    columns = {
        "video_id": [f"clip-{number:04d}" for number in range(num_videos)],
        "path": [str(paths[number % len(paths)]) for number in range(num_videos)],
        "label": labels,
        "num_frames": 8 * ok,
        "fps": 12.0 * ok,
        "width": 48 * ok,
        "height": 48 * ok,
        "codec": np.where(readable, "h264", ""),
        "status": np.where(readable, "ok", "not_a_video"),
        "detail": np.where(readable, "", "no frames"),
        "group": [""] * num_videos,
        "guard": np.where(np.arange(num_videos) == 1, "edit list", ""),
        "keyframe_interval": 8 * ok,
    }
    table = pa.table({f.name: pa.array(columns[f.name]).cast(f.type) for f in SCHEMA})
    manifest = Manifest(table, tuple(classes), "made up", True)
    failure = {
        "video_id": "clip-0000",
        "path": "x.mp4",
        "reason": "not_a_video",
        "detail": "no frames",
    }
    steps = np.arange(1, 101)
    record = TrainingRecord(
        curves={
            "train/loss": Series(steps, 3.0 / np.sqrt(steps)),
            "train/top1": Series(steps, steps / 120),
            "val_top1": Series(steps[49::50], np.array([0.4, 0.7])),
        },
        speed={
            "clips_per_s": Series(steps[::10] / 10, 40.0 + np.sin(steps[::10])),
            "data_wait_share": Series(steps[::10] / 10, np.full(10, 0.02)),
        },
        restarts=[4.0],
    )
    given = {
        "protocol": "efficient",
        "num_views": 1,
        "num_segments": 8,
        "size": 224,
        "command": "stm evaluate --checkpoint runs/a --manifest val.parquet",
        "seconds": 12.5,
        "checkpoint": "/runs/a/checkpoint-00000100",
        "meta": Meta(
            config=Config().to_dict(), classes=classes, position=Position(2, 0), step=100, fingerprint="f"
        ),
        "model_fingerprint": "0123456789abcdef",
        "manifest_path": "/manifests/val.parquet",
        "manifest": manifest,
        "scores": Scores(scores, readable, [failure]),
        "metrics": measure(scores, labels, readable),
        "record": record,
        "when": "2026-11-22 19:00",
    }  # fmt: skip
    return Facts(**{**given, **changes})


def with_time(facts, pairs=((0, 1),)):
    """The facts with other orders of frames, whose scores are those of other classes."""
    generator = np.random.default_rng(1)
    played = facts.scores.scores_NK
    scores = {order: played[:, generator.permutation(played.shape[1])] for order in ORDERS}
    scores["played"] = played
    return replace(
        facts, time_use=TimeUse(scores, facts.labels_N, facts.scores.readable_N, list(pairs))
    )
