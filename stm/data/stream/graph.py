"""The Ray Data graph: sample plan -> decode -> batches that each rank consumes in order.

    plan task (one, 0 CPU)  ->  decode tasks (as many as there are CPUs)  ->  split, round robin  ->  ranks

A row of the graph is one rank's share of K successive steps of an epoch, and every row is its own block. Row i
belongs to rank i % world size, so ranks stay aligned in whatever order tasks finish. K is 1 unless the stream may pack
steps (`StreamSpec.block_bytes`); the overhead of a block hardly depends on its size. The plan for all remaining epochs
is produced while it is consumed, so the executor runs across the ends of epochs, and memory does not grow with the
data. Validation follows its epoch in the same sequence. A separate stream would compete with this one for CPUs. With
a single CPU it would wait for ever, because a task under backpressure keeps its CPU.

A single executor limits throughput, so large worlds have several streams (`split`). Each is this graph for a group of
ranks, with its own executor, plan and split. The plan is a pure function, so streams agree without communication.

A row from the plan task has one column `plan`: this dictionary as JSON (Ray took six times as long to send it as
columns of lists). A list has one entry for each of U x K x B samples: U shares, K steps, B samples per share and step.

    key         entries    meaning
    epoch       int        [U] epoch of the share
    offset_end  int        [U x K] samples of the epoch consumed after each step
    videos      int        row number among the usable videos, -1 for padding
    seeds       int        seed of every random draw for the sample
    validation  bool       [1] whether the shares belong to a validation
    video_id, path, label, num_frames, width, height, fps: the manifest's, None for padding

A row from a decode task (B samples per step, V views per sample):

    column      dtype and shape              bytes
    clips       uint8 [K B, V, T, S, S, 3]   K x B x V x T x S x S x 3
    labels      int64 [K B]
    weights     float32 [K B]                0 for padding and for a video that could not be decoded
    videos      int64 [K B]
    epoch       int32
    offset_end  int64 [K]
    validation  bool
    failures    string                       JSON list of {video_id, path, reason, detail}, for K > 1 with the number
                                             of the sample; "[]" without failures
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stm.data.decode import VideoError
from stm.data.stream.balance import Balanced
from stm.data.stream.clips import ClipSpec
from stm.data.stream.guarded import GuardedDecoder, Views, uninterrupted
from stm.data.stream.plan import Position, Round, rounds, validates
from stm.data.stream.waiting import WaitMonitor
from stm.data.video import StoreAway
from stm.patience import insist, patience
from stm.ray_compat import near_the_caller
from stm.storage import is_url, store_of

if TYPE_CHECKING:
    import ray.data

BORROWED = 2.0
"""CPUs that one of several streams may use, as a multiple of its share."""

_SAMPLE_COLUMNS = ("video_id", "path", "label", "num_frames", "width", "height", "fps")


BLOCK_BYTES = 2**26
"""Maximum size of a block of packed steps in training."""


def steps_per_block(clip: ClipSpec, local_batch: int, clips_per_task: int, block_bytes: int) -> int:
    """Steps of ``local_batch`` samples per block: as many as fit ``clips_per_task`` and ``block_bytes``."""
    samples = min(clips_per_task // clip.num_crops, block_bytes // clip.clip_bytes)
    return max(1, samples // local_batch)


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
    """Strength of class balancing, 0 to 1 (``stm.data.stream.balance``)."""
    clips_per_task: int = 64
    """Clips per decoding task: enough to make the cost of starting a task negligible."""
    block_bytes: int = 0
    """Steps of a rank are packed into one block up to this size and ``clips_per_task``; with 0 none are packed."""
    cpus_per_task: float = 1.0
    prefetch_batches: int = 2
    """Batches that each rank prefetches. They, the batch in use and the running tasks bound memory."""
    decode_deadline_s: float = 60.0
    """Deadline per clip; slower clips fail (``stm.data.stream.guarded``)."""
    store_patience_s: float = 0.0
    """How long to wait for a video store that does not respond."""
    max_cpus: float | None = None
    """CPUs that decoding may use in total; None uses all free CPUs."""
    quarantine: Any = None
    """Actor that records videos which hung or crashed a decoder, or None."""
    views: Views | None = None
    """Function that decodes a clip; None is ``load_views``. ``stm bench scale`` uses one without cost."""

    def local_batch(self, world_size: int) -> int:
        """Samples per rank and step: B."""
        return -(-self.global_batch // world_size)

    def steps_per_block(self, world_size: int) -> int:
        """Steps per block after the start of the stream: K."""
        return steps_per_block(
            self.clip, self.local_batch(world_size), self.clips_per_task, self.block_bytes
        )

    def shares_per_task(self, num_samples: int) -> int:
        """Shares of ``num_samples`` samples each that one task decodes, if there are as many."""
        return max(1, self.clips_per_task // (num_samples * self.clip.num_crops))

    def buffer_bytes(self, world_size: int, num_ranks: int, num_tasks: int) -> int:
        """Object store bytes that the stream may use: twice its need, because Ray gives decoding half of them.

        Each rank holds its prefetched blocks, the block in use and the next one. Two more per rank wait in the
        executor: one until the rank requests it, and one until all ranks have as many.
        """
        steps = self.steps_per_block(world_size)
        block = steps * self.local_batch(world_size)
        ready = num_ranks * (-(-self.prefetch_batches // steps) + 4) * block
        making = num_tasks * max(self.clips_per_task, block)
        return max(2**28, 2 * (ready + making) * self.clip.clip_bytes)


@dataclass(frozen=True)
class Validation:
    """Validation within a training stream: one pass in manifest order after every ``every_epochs`` epochs."""

    stream: StreamSpec
    """One unshuffled epoch with the global batch of the training stream."""
    every_epochs: int = 1


def put_videos(manifest: Any) -> Any:
    """Put the usable rows of a `Manifest` into the object store, once for all tasks that read them."""
    import ray

    rows = manifest.table.select(_SAMPLE_COLUMNS)
    if (
        len(manifest.usable) < rows.num_rows
    ):  # else the table already has just these rows, perhaps millions
        rows = rows.take(pa.array(manifest.usable))
    return ray.put(rows.combine_chunks())


def build_stream(
    spec: StreamSpec,
    world_size: int,
    start: Position = Position(),
    validation: Validation | None = None,
    ranks: range | None = None,
    num_streams: int = 1,
) -> ray.data.Dataset:
    """The graph above for ``ranks`` (None is all), from ``start`` to the end of the last epoch; rows in plan order.

    Each of ``num_streams`` streams may use its share of the CPUs. Unless ``spec.max_cpus`` sets a limit, it may borrow
    as many again from streams that are ahead and wait for their ranks.
    """
    import ray
    from ray.data import DataContext, ExecutionResources

    from stm.data.stream.pacing import lend, paced, pause_s

    ranks = range(world_size) if ranks is None else ranks
    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    # Any row exceeds one byte, so every row becomes its own block and none is cut. This keeps ranks aligned.
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    # This policy counts blocks that wait for a whole round of ranks as too many: 64 ranks would never get theirs.
    context.downstream_capacity_backpressure_ratio = None
    context.memory_usage_poll_interval_s = (
        None  # otherwise a thread in each task measures the memory of its process
    )
    limit = spec.max_cpus and spec.max_cpus / num_streams
    cpus = limit or ray.cluster_resources().get("CPU", 1) / num_streams
    share = spec.steps_per_block(world_size) * spec.local_batch(world_size)
    pause = pause_s(cpus, share * min(len(ranks), spec.shares_per_task(share)))
    if num_streams > 1:
        near_the_caller(context)  # where the stream's ranks are
        if limit is None:
            cpus *= BORROWED
            lend(context, max(cpus, spec.cpus_per_task))
    num_tasks = max(1, int(cpus / spec.cpus_per_task))
    paced(context, pause, "SamplePlan", num_tasks)
    context.execution_options.resource_limits = ExecutionResources(
        cpu=limit,
        object_store_memory=spec.buffer_bytes(world_size, len(ranks), num_tasks),
    )
    with DataContext.current(context):
        source = _plan_source(spec, world_size, start, validation, ranks)
        # The plan reserves no CPU: it sleeps most of the time and must never block a decoder.
        plan = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
        return plan.map_batches(
            decode_shares,
            fn_kwargs={
                "spec": spec.clip,
                "validation_spec": validation.stream.clip if validation else None,
                "deadline_s": spec.decode_deadline_s,
                "quarantine": spec.quarantine,
                "patience_s": spec.store_patience_s,
                "views": spec.views,
            },
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=spec.cpus_per_task,
        )


def _plan_source(
    spec: StreamSpec,
    world_size: int,
    start: Position,
    validation: Validation | None,
    ranks: range,
) -> Any:
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    def read() -> Iterator[pa.Table]:
        return _sequence(spec, world_size, start, validation, ranks)

    class SamplePlan(Datasource):
        """One read task that yields the plan while it is consumed."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            del parallelism  # a single sequence needs a single reader
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
    validation: Validation | None,
    ranks: range,
) -> Iterator[pa.Table]:
    """The rows of all epochs from ``start`` on, each followed by its validation if it has one."""
    import ray

    videos = ray.get(spec.videos)
    if validation is None:
        yield from plan_rows(videos, spec, world_size, start, ranks)
        return
    held_out = ray.get(validation.stream.videos)
    for epoch in range(start.epoch, spec.num_epochs):
        first = epoch == start.epoch
        from_here = start if first else Position(epoch, 0)
        one_epoch = replace(spec, num_epochs=epoch + 1)
        yield from plan_rows(videos, one_epoch, world_size, from_here, ranks, begins=first)
        if validates(epoch + 1, validation.every_epochs, spec.num_epochs):
            yield from plan_rows(
                held_out,
                validation.stream,
                world_size,
                Position(),
                ranks,
                begins=False,
                validation=True,
            )


def plan_rows(
    videos: pa.Table,
    spec: StreamSpec,
    world_size: int,
    start: Position,
    ranks: range | None = None,
    *,
    begins: bool = True,
    validation: bool = False,
) -> Iterator[pa.Table]:
    """The plan of ``ranks`` as one-row tables, one per decoding task (first table of the module docstring).

    When a stream ``begins``, its first blocks hold one step, and the number doubles up to ``spec.steps_per_block``.
    The first step thus does not wait for the clips of later steps.
    """
    steps = spec.steps_per_block(world_size)

    def num_steps(number: int) -> int:
        return min(steps, 2 ** max(0, number - 1)) if begins and number < 32 else steps

    for each in rounds(
        spec.num_videos,
        global_batch=spec.global_batch,
        world_size=world_size,
        seed=spec.seed,
        start=start,
        num_epochs=spec.num_epochs,
        shuffle=spec.shuffle,
        draw=Balanced(videos.column("label").to_numpy(), spec.balance).draw
        if spec.balance
        else None,
        ranks=ranks,
        num_steps=num_steps,
    ):
        shares_per_task = spec.shares_per_task(each.videos[0].size)
        for first in range(0, len(each.videos), shares_per_task):
            yield _plan_row(videos, each, slice(first, first + shares_per_task), validation)


def _plan_row(videos: pa.Table, each: Round, ranks: slice, validation: bool) -> pa.Table:
    numbers_UKB = each.videos[ranks]
    num_shares, numbers = len(numbers_UKB), numbers_UKB.ravel()
    # A null row number gives a null row: padding has no path.
    rows = videos.take(pa.array(numbers, mask=numbers < 0))
    plan = {name: rows.column(name).to_pylist() for name in _SAMPLE_COLUMNS}
    plan["epoch"] = [each.epoch] * num_shares
    plan["offset_end"] = each.offset_ends.tolist() * num_shares
    plan["videos"] = numbers.tolist()
    plan["validation"] = [validation]
    plan["seeds"] = each.seeds[ranks].ravel().tolist()
    return packed(plan)


def packed(plan: dict[str, list[Any]]) -> pa.Table:
    """A row of the plan as `decode_shares` expects it (first table of the module docstring)."""
    return pa.table({"plan": pa.array([json.dumps(plan)], pa.large_string())})


def unpacked(row: pa.Table) -> dict[str, list[Any]]:
    """The inverse of `packed`."""
    plan: dict[str, list[Any]] = json.loads(row.column("plan")[0].as_py())
    return plan


def decode_shares(
    row: pa.Table,
    spec: ClipSpec,
    validation_spec: ClipSpec | None = None,
    deadline_s: float = 60.0,
    quarantine: Any = None,
    patience_s: float = 0.0,
    views: Views | None = None,
) -> Iterator[dict[str, Any]]:
    """Decode the shares of one plan row, one at a time (second table of the module docstring).

    A video that cannot be decoded gives a clip of zeros with weight 0 and the reason; it is never replaced. If its
    store does not respond, decoding is retried for ``patience_s``.
    """
    plan = unpacked(row)
    with uninterrupted():
        import torch

    # One core per task. Ray ensures this for tasks that reserve whole CPUs, unless the environment overrides it.
    torch.set_num_threads(1)
    (validation,) = plan["validation"]
    if validation:
        assert validation_spec is not None
        spec = validation_spec
    num_shares = len(plan["epoch"])
    steps = len(plan["offset_end"]) // num_shares
    samples = len(plan["videos"]) // num_shares
    shape = (samples, spec.num_crops, spec.num_segments, spec.size, spec.size, 3)
    with GuardedDecoder(spec, deadline_s, quarantine, views=views) as decoder:
        for share in range(num_shares):
            clips = np.zeros(shape, dtype=np.uint8)
            labels = np.zeros(samples, dtype=np.int64)
            weights = np.zeros(samples, dtype=np.float32)
            failures = []
            for i in range(samples):
                j = share * samples + i
                if plan["videos"][j] < 0:
                    continue
                path, seed, labels[i] = plan["path"][j], plan["seeds"][j], plan["label"][j]
                size = (plan["num_frames"][j], plan["width"][j], plan["height"][j])
                epoch = plan["epoch"][share]  # in an evaluation: the number of the sampling
                drawn = (int(labels[i]), seed, plan["fps"][j], epoch)
                load = partial(decoder.load, path, *size, *drawn)
                try:
                    with patience(patience_s if is_url(path) else 0):
                        what = f"{path} is being read"
                        clips[i], labels[i] = insist(store_of(path), what, load, StoreAway)
                    weights[i] = 1
                except VideoError as error:
                    named = {"video_id": plan["video_id"][j], "path": path}
                    failure = {**named, "reason": error.reason, "detail": error.detail}
                    failures.append(failure if steps == 1 else {**failure, "sample": i})
            yield {
                "clips": clips[None],
                "labels": labels[None],
                "weights": weights[None],
                "videos": np.asarray(plan["videos"][share * samples :][:samples])[None],
                "epoch": np.asarray([plan["epoch"][share]], dtype=np.int32),
                "offset_end": np.asarray(plan["offset_end"][share * steps :][:steps])[None],
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
    shard: Any, prefetch_blocks: int, monitor: WaitMonitor | None = None
) -> Iterator[ClipBatch]:
    """The batches of a ``ray.data.DataIterator`` or ``Dataset`` of this graph; ``prefetch_blocks`` rows are prefetched.

    ``monitor`` measures the wait for each batch.
    """
    rows = iter(
        shard.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=prefetch_blocks)
    )
    while True:
        with monitor.waiting() if monitor else contextlib.nullcontext():
            row = next(rows, None)
        if row is None:
            return
        yield from _batches(row)


def _batches(row: dict[str, np.ndarray]) -> Iterator[ClipBatch]:
    """The steps of a row of the graph."""
    offset_ends = row["offset_end"][0].tolist()
    failures = json.loads(row["failures"][0])
    samples = len(row["videos"][0]) // len(offset_ends)
    for step, offset_end in enumerate(offset_ends):
        own = slice(step * samples, (step + 1) * samples)
        yield ClipBatch(
            clips=row["clips"][0][own],
            labels=row["labels"][0][own],
            weights=row["weights"][0][own],
            videos=row["videos"][0][own],
            epoch=int(row["epoch"][0]),
            offset_end=offset_end,
            validation=bool(row["validation"][0]),
            failures=[
                {name: value for name, value in each.items() if name != "sample"}
                for each in failures
                if each.get("sample", 0) // samples == step
            ],
        )
