"""Class scores of videos through Ray Data: plan -> decode -> network, the same graph as training's.

Row that leaves the network (one per batch of B samples; a sample is one sampling of a video, its crops averaged):

    column          dtype and shape
    videos          int64 [B]           row among the usable videos, -1 for padding
    epoch           int32               number of the sampling
    probabilities   float32 [B, O, K]   softmax, mean over crops, for each of O orders of frames
    weights         float32 [B]         0 for padding and for what could not be decoded
    failures        string              as in ``stm.data.stream.graph``
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from stm import cluster
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec
from stm.data.stream.graph import StreamSpec, build_stream, put_videos
from stm.data.stream.plan import sample_seed
from stm.scoring.orders import FrameOrder, in_order
from stm.storage import absolute

if TYPE_CHECKING:
    from torch import nn

    from stm.model.plugins import Plugin

_CLASSIFIER_BYTES = 2**28
"""Memory a process with the network reserves."""


@dataclass(frozen=True)
class Scores:
    """What the network says of the N rows of a manifest."""

    scores_NK: np.ndarray
    """float64 [N, K]: softmax averaged over the views that could be read; zeros where none could."""
    readable_N: np.ndarray
    """bool [N]: at least one sampling was read."""
    failures: list[dict[str, str]]
    """Videos that were unusable when indexed, or failed now: video_id, path, reason, detail."""
    reordered: dict[FrameOrder, np.ndarray] = field(default_factory=dict)
    """As ``scores_NK``, of the same frames in the other orders that were asked for."""


class Classifier:
    """Softmax scores of clips by the network of a checkpoint; one per process, on its GPU where it has one.

    Args:
        checkpoint: its folder or URL.
        num_threads: of a CPU.
        own_process: the process is stm's, so that its malloc may be set for inference (see ``stm.model.allocator``).
        plugins: what the driver was told to run (``stm.model.plugins.loaded()``), for a process of its own.
        orders: of the frames, in which rows of the graph are scored.
        seed: of the graph's samples, from which shuffles are drawn.
    """

    def __init__(
        self,
        checkpoint: str,
        num_threads: int,
        *,
        own_process: bool = True,
        plugins: Sequence[Plugin] = (),
        orders: Sequence[FrameOrder] = ("played",),
        seed: int = 0,
    ) -> None:
        import torch

        from stm.checkpoint.network import load_network
        from stm.model import plugins as plugins_here
        from stm.model.allocator import keep_freed_memory
        from stm.model.inputs import autocast, set_arithmetic
        from stm.model.packed import can_pack, pack
        from stm.model.transfer import Transfer

        plugins_here.receive(plugins)
        self.orders, self.seed = orders, seed
        torch.set_num_threads(num_threads)
        network = load_network(checkpoint)
        self.device = network.fc.weight.device
        set_arithmetic(self.device)
        self.autocast = autocast("auto", self.device)
        self._transfer = Transfer(self.device)
        self.model: nn.Module = network
        if self.device.type == "cpu":
            if own_process:
                keep_freed_memory()
            if can_pack():
                self.model = pack(network)

    def scores(self, clips: np.ndarray) -> np.ndarray:
        """uint8 [B, V, T, S, S, 3] -> float32 [B, K], the mean over views of the softmax."""
        import torch

        batch, views = clips.shape[:2]
        with torch.inference_mode(), self.autocast.context():
            # View by view: thirty at once would take thirty times the memory.
            total = torch.zeros((), device=self.device)
            for view in range(views):
                (clips_NTCHW,) = self._transfer(clips[:, view])
                total = total + self.model(clips_NTCHW).float().softmax(1)
        return (total / views).cpu().numpy().reshape(batch, -1)

    def __call__(self, row: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = {name: row[name] for name in ("videos", "epoch", "weights", "failures")}
        clips = row["clips"][0]
        seeds = sample_seed(row["videos"][0], seed=self.seed, epoch=int(row["epoch"][0]))
        scores = [self.scores(in_order(clips, order, seeds)) for order in self.orders]
        return {**kept, "probabilities": np.stack(scores, 1)[None]}


def score_manifest(
    manifest: Manifest,
    checkpoint: str,
    clip: ClipSpec,
    *,
    num_samplings: int = 1,
    batch_size: int = 8,
    num_workers: int = 1,
    seed: int = 0,
    decode_deadline_s: float = 60.0,
    orders: Sequence[FrameOrder] = ("played",),
    tick: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score every usable video of a manifest, each ``num_samplings`` times; the rest are listed as failures.

    ``checkpoint`` is a folder or URL that every node reaches; each of ``num_workers`` processes reads it. The result
    does not depend on their number: every sample is decoded, and its frames shuffled, from its own seed. Frames are
    decoded once, whatever the number of ``orders``, of which the first is ``played``. ``tick(done, total)`` counts
    samplings.
    """
    import ray

    from stm.model import plugins

    usable = manifest.usable
    num_classes = manifest.num_classes
    sums = np.zeros((len(manifest), len(orders), num_classes))
    counts = np.zeros(len(manifest), dtype=np.int64)
    failures = unusable_rows(manifest)
    # A sampling is an epoch in manifest order: its seeds differ from the other samplings'.
    stream = build_stream(
        StreamSpec(
            videos=put_videos(manifest),
            num_videos=len(usable),
            global_batch=batch_size,
            clip=clip,
            seed=seed,
            num_epochs=num_samplings,
            decode_deadline_s=decode_deadline_s,
        ),
        world_size=1,
    )
    gpus = ray.cluster_resources().get("GPU", 0.0)
    use_gpu = cluster.gpu_for_each(gpus, num_workers, "--workers")
    threads = 1 if use_gpu else max(1, (os.cpu_count() or 1) // num_workers)
    results = stream.map_batches(
        Classifier,
        fn_constructor_args=(absolute(checkpoint), threads),
        fn_constructor_kwargs={"plugins": plugins.loaded(), "orders": orders, "seed": seed},
        batch_size=1,
        concurrency=num_workers,
        num_cpus=1,
        num_gpus=int(use_gpu),
        # Stages that reserve alike are fused, and decoding would move into the network's processes: one video at a
        # time, and a decoder that hangs would take the network with it.
        memory=_CLASSIFIER_BYTES,
    )
    done = 0
    for row in results.iter_batches(batch_size=1, batch_format="numpy"):
        kept = row["weights"][0] > 0
        rows = usable[row["videos"][0][kept]]
        np.add.at(sums, rows, row["probabilities"][0][kept])
        np.add.at(counts, rows, 1)
        failures += json.loads(row["failures"][0])
        done += int((row["videos"][0] >= 0).sum())
        tick(done, len(usable) * num_samplings)
    readable = counts > 0
    sums[readable] /= counts[readable, None, None]
    scores = dict(zip(orders, np.moveaxis(sums, 1, 0), strict=True))
    return Scores(scores.pop("played"), readable, failures, scores)


def unusable_rows(manifest: Manifest) -> list[dict[str, str]]:
    """The rows that indexing found unusable, as failures."""
    columns = ["video_id", "path", "status", "detail"]
    rows = manifest.table.select(columns).to_pylist()
    return [
        {"video_id": r["video_id"], "path": r["path"], "reason": r["status"], "detail": r["detail"]}
        for r in rows
        if r["status"] != "ok"
    ]
