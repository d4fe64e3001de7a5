"""The Ray Data graph: sample plan -> decode -> batches that each rank takes in order.

    plan task (one, 0 CPU)  ->  decode tasks (as many as there are CPUs)  ->  split, round robin  ->  ranks

A row of the graph is one rank's share of one step, and every row is a block of its own: row i belongs to rank
i % world size, so ranks stay aligned whatever finishes first. The plan is produced while it is consumed, for all the
epochs that are left: an epoch's end is no boundary for the executor, and memory does not grow with the data.
Validation is part of the same sequence, after the epochs it belongs to. A stream of its own would compete with this one
for the CPUs to decode on, and where there is only one, wait for ever: a task that is held back keeps its CPU.

Row that leaves the plan task (a list column has one entry for each of U x B samples, U shares of B samples):

    column      dtype          meaning
    epoch       list<int32>    [U] epoch of the share
    offset_end  list<int64>    [U] samples of the epoch consumed after the share's step
    videos      list<int64>    row number among the usable videos, -1 for padding
    seeds       list<uint64>   seed of every random draw for the sample
    validation  list<bool>     [1] whether the shares belong to a validation
    video_id, path, label, num_frames, width, height, fps: the manifest's, null for padding

Row that leaves a decode task (B samples, V views a sample):

    column      dtype and shape            bytes
    clips       uint8 [B, V, T, S, S, 3]   B x V x T x S x S x 3
    labels      int64 [B]
    weights     float32 [B]                0 for padding and for a video that could not be decoded
    videos      int64 [B]
    epoch       int32
    offset_end  int64
    validation  bool
    failures    string                     JSON list of {video_id, path, reason, detail}, "[]" when all is well
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stm.data.decode import VideoError
from stm.data.stream.balance import Balanced
from stm.data.stream.clips import ClipSpec
from stm.data.stream.guarded import GuardedDecoder
from stm.data.stream.plan import Position, shares, validates
from stm.data.stream.waiting import WaitMonitor
from stm.data.video import StoreAway
from stm.patience import insist, patience
from stm.ray_compat import add_execution_callback
from stm.storage import is_url, store_of

if TYPE_CHECKING:
    import ray.data

_SAMPLE_COLUMNS = ("video_id", "path", "label", "num_frames", "width", "height", "fps")


@dataclass(frozen=True)
class StreamSpec:
    """One stream of clips: which videos, in which order, drawn how."""

    videos: Any
    """``ray.ObjectRef`` of a table with the usable rows of a manifest (`put_videos`)."""
    num_videos: int
    global_batch: int
    clip: ClipSpec
    seed: int = 0
    num_epochs: int = 1
    shuffle: bool = False
    balance: float = 0.0
    """How far classes are shown equally often, 0 to 1 (``stm.data.stream.balance``)."""
    clips_per_task: int = 64
    """Clips that one decoding task makes: enough that starting a task costs nothing beside it."""
    cpus_per_task: float = 1.0
    prefetch_batches: int = 2
    """Batches each rank holds ready; memory is bounded by this, the batch and the tasks at work."""
    decode_deadline_s: float = 60.0
    """A clip that takes longer is given up (``stm.data.stream.guarded``)."""
    store_patience_s: float = 0.0
    """How long a store that holds videos is waited for, where it does not answer."""
    max_cpus: float | None = None
    """CPUs that decoding may take in all; None takes what is free."""
    quarantine: Any = None
    """Actor that remembers videos which hung or crashed a decoder, or None."""

    def buffer_bytes(self, world_size: int, num_tasks: int) -> int:
        """Object store that the stream may fill: what ranks hold ready and what tasks make, with room to swap."""
        local_batch = -(-self.global_batch // world_size)
        ready = world_size * (self.prefetch_batches + 2) * local_batch
        making = num_tasks * max(self.clips_per_task, local_batch)
        return max(2**28, 2 * (ready + making) * self.clip.clip_bytes)


@dataclass(frozen=True)
class Validation:
    """The validations inside a training stream: one pass in manifest order after every ``every_epochs`` epochs."""

    stream: StreamSpec
    """One epoch, not shuffled, of the training stream's global batch."""
    every_epochs: int = 1


def put_videos(manifest: Any) -> Any:
    """Put the usable rows of a `Manifest` into the object store, once for all tasks that read them."""
    import ray

    usable = manifest.table.select(_SAMPLE_COLUMNS).take(pa.array(manifest.usable)).combine_chunks()
    return ray.put(usable)


def build_stream(
    spec: StreamSpec,
    world_size: int,
    start: Position = Position(),
    validation: Validation | None = None,
) -> ray.data.Dataset:
    """The graph above, from ``start`` to the end of the last epoch; shares come out in plan order."""
    import ray
    from ray.data import DataContext, ExecutionResources

    from stm.data.stream.pacing import Pace

    local_batch = -(-spec.global_batch // world_size)
    shares_per_task = max(1, spec.clips_per_task // (local_batch * spec.clip.num_crops))
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # Any row exceeds one byte, so every row becomes a block of its own and none is cut: that is the alignment.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    add_execution_callback(context, Pace)
    cpus = spec.max_cpus or ray.cluster_resources().get("CPU", 1)
    num_tasks = max(1, int(cpus / spec.cpus_per_task))
    context.execution_options.resource_limits = ExecutionResources(
        cpu=spec.max_cpus,
        object_store_memory=spec.buffer_bytes(world_size, num_tasks),
    )
    with DataContext.current(context):
        source = _plan_source(spec, world_size, start, shares_per_task, validation)
        # The plan reserves no CPU: it sleeps most of the time, and must never keep a decoder out.
        plan = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
        return plan.map_batches(
            decode_shares,
            fn_kwargs={
                "spec": spec.clip,
                "validation_spec": validation.stream.clip if validation else None,
                "deadline_s": spec.decode_deadline_s,
                "quarantine": spec.quarantine,
                "patience_s": spec.store_patience_s,
            },
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=spec.cpus_per_task,
        )


def _plan_source(
    spec: StreamSpec,
    world_size: int,
    start: Position,
    shares_per_task: int,
    validation: Validation | None,
) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def read() -> Iterator[pa.Table]:
        return _sequence(spec, world_size, start, shares_per_task, validation)

    class SamplePlan(Datasource):
        """One read task that yields the plan while it is consumed."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            del parallelism  # one sequence has one reader
            return [
                ReadTask(
                    read,
                    BlockMetadata(
                        num_rows=None, size_bytes=None, input_files=None, exec_stats=None
                    ),
                )
            ]

    return SamplePlan()


def _sequence(
    spec: StreamSpec,
    world_size: int,
    start: Position,
    shares_per_task: int,
    validation: Validation | None,
) -> Iterator[pa.Table]:
    """The rows of all epochs from ``start`` on, and of the validations after those that have one."""
    import ray

    videos = ray.get(spec.videos)
    if validation is None:
        yield from plan_rows(videos, spec, world_size, start, shares_per_task)
        return
    held_out = ray.get(validation.stream.videos)
    for epoch in range(start.epoch, spec.num_epochs):
        from_here = start if epoch == start.epoch else Position(epoch, 0)
        one_epoch = replace(spec, num_epochs=epoch + 1)
        yield from plan_rows(videos, one_epoch, world_size, from_here, shares_per_task)
        if validates(epoch + 1, validation.every_epochs, spec.num_epochs):
            yield from plan_rows(
                held_out, validation.stream, world_size, Position(), shares_per_task, True
            )


def plan_rows(
    videos: pa.Table,
    spec: StreamSpec,
    world_size: int,
    start: Position,
    shares_per_task: int,
    validation: bool = False,
) -> Iterator[pa.Table]:
    """The plan as one-row tables (first table of the module docstring), ``shares_per_task`` shares a row."""
    draw = None
    if spec.balance:
        draw = Balanced(videos.column("label").to_numpy(), spec.balance).draw
    group = []
    for share in shares(
        spec.num_videos,
        global_batch=spec.global_batch,
        world_size=world_size,
        seed=spec.seed,
        start=start,
        num_epochs=spec.num_epochs,
        shuffle=spec.shuffle,
        draw=draw,
    ):
        group.append(share)
        if len(group) == shares_per_task:
            yield _plan_row(videos, group, validation)
            group = []
    if group:
        yield _plan_row(videos, group, validation)


def _plan_row(videos: pa.Table, group: list[Any], validation: bool) -> pa.Table:
    numbers = np.concatenate([share.videos for share in group])
    # A null row number takes a null row: padding has no path.
    rows = videos.take(pa.array(numbers, mask=numbers < 0))
    columns: dict[str, Any] = {name: rows.column(name).to_pylist() for name in _SAMPLE_COLUMNS}
    columns["epoch"] = [share.epoch for share in group]
    columns["offset_end"] = [share.offset_end for share in group]
    columns["videos"] = numbers
    columns["validation"] = [validation]
    columns["seeds"] = np.concatenate([share.seeds for share in group])
    return pa.table({name: pa.array([values]) for name, values in columns.items()})


def decode_shares(
    row: pa.Table,
    spec: ClipSpec,
    validation_spec: ClipSpec | None = None,
    deadline_s: float = 60.0,
    quarantine: Any = None,
    patience_s: float = 0.0,
) -> Iterator[dict[str, Any]]:
    """Decode the shares of one plan row, one at a time: (second table of the module docstring).

    A video that cannot be decoded leaves a clip of zeros with weight 0 and its reason; it is never replaced. Where its
    store does not answer, it is tried again for ``patience_s``.
    """
    plan = {name: row.column(name)[0].as_py() for name in row.column_names}
    import torch

    # One task, one core. Ray sees to that for tasks that reserve whole CPUs, unless the environment says otherwise.
    torch.set_num_threads(1)
    (validation,) = plan["validation"]
    if validation:
        assert validation_spec is not None
        spec = validation_spec
    num_shares = len(plan["epoch"])
    local_batch = len(plan["videos"]) // num_shares
    shape = (local_batch, spec.num_crops, spec.num_segments, spec.size, spec.size, 3)
    with GuardedDecoder(spec, deadline_s, quarantine) as decoder:
        for share in range(num_shares):
            clips = np.zeros(shape, dtype=np.uint8)
            labels = np.zeros(local_batch, dtype=np.int64)
            weights = np.zeros(local_batch, dtype=np.float32)
            failures = []
            for i in range(local_batch):
                j = share * local_batch + i
                if plan["videos"][j] < 0:
                    continue
                path, seed, labels[i] = plan["path"][j], plan["seeds"][j], plan["label"][j]
                size = (plan["num_frames"][j], plan["width"][j], plan["height"][j])
                epoch = plan["epoch"][share]  # of an evaluation the number of a sampling
                drawn = (int(labels[i]), seed, plan["fps"][j], epoch)
                load = partial(decoder.load, path, *size, *drawn)
                try:
                    with patience(patience_s if is_url(path) else 0):
                        what = f"{path} is being read"
                        clips[i], labels[i] = insist(store_of(path), what, load, StoreAway)
                    weights[i] = 1
                except VideoError as error:
                    named = {"video_id": plan["video_id"][j], "path": path}
                    failures.append({**named, "reason": error.reason, "detail": error.detail})
            yield {
                "clips": clips[None],
                "labels": labels[None],
                "weights": weights[None],
                "videos": np.asarray(plan["videos"][share * local_batch :][:local_batch])[None],
                "epoch": np.asarray([plan["epoch"][share]], dtype=np.int32),
                "offset_end": np.asarray([plan["offset_end"][share]]),
                "validation": np.asarray([validation]),
                "failures": np.asarray([json.dumps(failures)], dtype=object),
            }


@dataclass(frozen=True)
class ClipBatch:
    """One rank's share of one step, decoded. Arrays are read-only views of shared memory."""

    clips: np.ndarray
    """uint8 [B, V, T, S, S, 3]."""
    labels: np.ndarray
    """int64 [B]."""
    weights: np.ndarray
    """float32 [B]."""
    videos: np.ndarray
    """int64 [B], -1 for padding."""
    epoch: int
    offset_end: int
    validation: bool = False
    failures: list[dict[str, str]] = field(default_factory=list)


def iterate(
    shard: Any, prefetch_batches: int, monitor: WaitMonitor | None = None
) -> Iterator[ClipBatch]:
    """The batches of a ``ray.data.DataIterator`` or ``Dataset`` of this graph, ``prefetch_batches`` fetched ahead.

    ``monitor`` is told when a batch is waited for.
    """
    rows = iter(
        shard.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=prefetch_batches)
    )
    while True:
        with monitor.waiting() if monitor else contextlib.nullcontext():
            row = next(rows, None)
        if row is None:
            return
        yield ClipBatch(
            clips=row["clips"][0],
            labels=row["labels"][0],
            weights=row["weights"][0],
            videos=row["videos"][0],
            epoch=int(row["epoch"][0]),
            offset_end=int(row["offset_end"][0]),
            validation=bool(row["validation"][0]),
            failures=json.loads(row["failures"][0]),
        )


SHARD = "clips"
"""The name under which a rank asks Ray Train for its part of the stream."""


def plan_data_config(
    train: StreamSpec,
    validation: Validation | None,
    latest_position: Callable[[], Position],
    cpus_per_worker: float,
) -> Any:
    """A ``ray.train.DataConfig`` that builds the stream for the world as it is at every (re)start.

    Ray calls ``configure`` anew, with the real world size, each time it starts the workers; ``latest_position`` is
    asked then, so a run that was interrupted goes on from its last checkpoint, on any number of workers.

    Workers that leave no CPU to decode with would wait for ever: that is a ``RuntimeError`` with the sum.
    """
    from ray.train import DataConfig

    class PlanDataConfig(DataConfig):
        def configure(
            self, datasets: Any, world_size: int, *_: Any, **__: Any
        ) -> list[dict[str, Any]]:
            del datasets  # a placeholder that tells Ray Train the name of the shard
            _check_room(world_size, cpus_per_worker, train.cpus_per_task)
            stream = build_stream(train, world_size, latest_position(), validation)
            stream.set_name(SHARD)
            return [{SHARD: shard} for shard in stream.streaming_split(world_size, equal=True)]

    return PlanDataConfig()


def _check_room(world_size: int, cpus_per_worker: float, cpus_per_task: float) -> None:
    """The cluster may have changed since the start: an elastic run takes the nodes there are."""
    import ray

    cpus = ray.cluster_resources().get("CPU", 0.0)
    left = cpus - world_size * cpus_per_worker
    if left < cpus_per_task - 1e-6:
        raise RuntimeError(
            f"{world_size} workers x {cpus_per_worker:g} CPU leave {left:g} of the cluster's {cpus:g} CPU, and a "
            f"decoding task needs {cpus_per_task:g}: keep training to nodes of its own with "
            "--train.resources_per_worker, or add nodes"
        )
