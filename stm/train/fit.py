"""The Ray Train job of a run: its streams, its workers, and how it ends."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from stm import cluster, ending, ray_compat
from stm.checkpoint import format as checkpoints
from stm.checkpoint.pretrained import Pretrained
from stm.checkpoint.store import CheckpointStore
from stm.config import Config
from stm.data.manifest import Manifest
from stm.data.stream.clips import ClipSpec, reversal
from stm.data.stream.graph import BLOCK_BYTES, StreamSpec, Validation, put_videos
from stm.data.stream.guarded import quarantine
from stm.data.stream.plan import Position
from stm.data.stream.streams import SHARD, plan_data_config
from stm.errors import UserError
from stm.log import get_logger, shown_by
from stm.patience import patience
from stm.plural import counted
from stm.storage import StorageError
from stm.tracking import Tracker
from stm.train.async_validation import AsyncValidation
from stm.train.events import Controlled, Dealt, Event, Kept, Started
from stm.train.folders import ray_storage
from stm.train.job import Job
from stm.train.listener import listening
from stm.train.progress import BoardHandler, board
from stm.train.rarity import class_terms
from stm.train.recorder import Recorder, failure_callback
from stm.train.summary import next_step, versions

RESIZE_CHECK_S = 60.0
"""How often an elastic run checks for free resources. To grow, it restarts the workers from the last checkpoint."""

ABORT_S = 20.0
"""How long the workers of an interrupted run have to stop."""

logger = get_logger(__name__)


class RunStopped(UserError):
    """The run stopped for a reason that a retry would meet again, such as a loss that is not finite."""


class RunFailed(UserError):
    """The workers failed more often than ``train.max_failures`` allows."""


class RunEnded(UserError):
    """The run was ended from outside."""


def fit(
    config: Config,
    store: CheckpointStore,
    placement: cluster.Placement,
    train_manifest: Manifest,
    val_manifest: Manifest | None,
    val_fingerprint: str,
    tracker: Tracker,
    recorder: Recorder,
    on_event: Callable[[Event], None] | None = None,
    again: str = "the same command",
    weights: Pretrained | None = None,
    started_from: dict[str, Any] | None = None,
) -> None:
    """Train from the last checkpoint to the end of the last epoch, on the workers of ``placement``.

    ``val_fingerprint`` is that of the validation manifest as it was read. A run without a checkpoint begins with
    ``weights``, which ``started_from`` describes. If a signal ends the command, the workers save a checkpoint first.
    ``again`` names the command that continues the run, for messages.

    Raises ``RunStopped``, ``RunFailed`` or ``RunEnded`` if the run does not reach the end.
    """
    import ray

    validator = None
    if val_manifest is not None and placement.validation_cpus:
        validator = AsyncValidation(config, val_manifest, val_fingerprint, store, recorder)

    started, kept = threading.Event(), threading.Event()

    def handle(event: Event) -> None:
        recorder.handle(event)
        if isinstance(event, Started):
            started.set()
        if isinstance(event, Kept):
            kept.set()
        if validator is not None and isinstance(event, Kept):
            validator.checkpoint_kept()
        hand_over(event)

    train_stream = training_stream(config, train_manifest)
    validation = None if validator is not None else _validation(config, val_manifest)
    with contextlib.ExitStack() as stack:
        hand_over = stack.enter_context(listening(on_event))
        if validator is not None:
            stack.enter_context(validator)
        stack.callback(recorder.catch_up, store)
        actor = stack.enter_context(board(handle, catch_up=lambda: recorder.catch_up(store)))
        job = Job(
            config=config,
            run_directory=store.run_directory,
            lease=store.lease,
            classes=list(train_manifest.classes),
            dataset=train_manifest.dataset,
            fingerprint=train_manifest.fingerprint,
            val_fingerprint=val_fingerprint,
            val_dataset=val_manifest.dataset if val_manifest else "",
            num_videos=len(train_manifest.usable),
            class_counts=train_manifest.class_counts.tolist(),
            class_terms=class_terms(config, train_manifest.class_counts, train_manifest.classes),
            num_val_videos=len(val_manifest) if val_manifest else 0,
            num_val_usable=len(val_manifest.usable) if val_manifest else 0,
            validates_elsewhere=validator is not None,
            board=actor,
            mlflow_run_id=tracker.run_id,
            versions=versions(),
            weights=None if weights is None else ray.put(weights),
            started_from=started_from,
            plugin=checkpoints.load_plugin(config),
        )
        streams = plan_data_config(
            train_stream,
            validation,
            _latest_position(store, actor, config.train.store_patience_s),
            placement.cpus_per_worker,
            config.data.streams,
        )

        def keep(seconds: float) -> None:
            """Ask the workers to save a checkpoint and wait for it; do nothing if they have not started."""
            if not started.is_set():
                return
            logger.warning(f"the run is to end: keeping a checkpoint, for up to {seconds:g} s")
            kept.clear()
            actor.ask_for_checkpoint.remote()
            if not kept.wait(seconds):
                logger.warning(f"no checkpoint was written within {seconds:g} s")

        with ending.keeping(keep):
            stop = _outcome(job, placement, streams, store, again)
    if stop.get("stopped"):
        ids = train_manifest.table.column("video_id").take(train_manifest.usable[stop["rows"]])
        named = f": {', '.join(ids.to_pylist())}" if stop["rows"] else ""
        raise RunStopped(f"run {config.train.name} stopped: {stop['stopped']}{named}")


def _latest_position(
    store: CheckpointStore, actor: Any, patience_s: float
) -> Callable[[], Position]:
    def latest_position() -> Position:
        """Called at every start of the workers, in a Ray Train process beside the controller."""
        import ray

        actor.post.remote(Dealt(dealer=ray.get_runtime_context().current_actor, board=actor))
        with shown_by(BoardHandler(actor), logging.INFO), patience(patience_s):
            try:
                found = store.take_whole()
            except StorageError:  # the workers get the same error, and stop the run with it
                found = None
        return found[1].position if found else Position()

    return latest_position


def _begin(actor: Any) -> Callable[[], Any]:
    def begin() -> Any:
        """Return the dataset that `plan_data_config` replaces by the stream; the controller calls it at every start."""
        import ray

        actor.post.remote(Controlled(controller=ray.get_runtime_context().current_actor))
        return ray.data.range(1)

    return begin


def _trainer(
    job: Job, placement: cluster.Placement, streams: Any, started: Callable[[Any], None]
) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from stm.train.loop import train_loop

    train = job.config.train
    workers: Any = train.num_workers
    if train.min_workers is not None:
        workers = (train.min_workers, train.num_workers)
    return ray_compat.torch_trainer(started)(
        train_loop,  # what it returns reaches us as `return_value`
        train_loop_config={"job": job},
        torch_config=TorchConfig(
            backend="nccl" if placement.use_gpu else "gloo",
            timeout_s=int(train.collective_timeout_s),
        ),
        scaling_config=ScalingConfig(
            num_workers=workers,
            elastic_resize_monitor_interval_s=RESIZE_CHECK_S,  # type: ignore[call-arg]
            use_gpu=placement.use_gpu,
            resources_per_worker={
                "CPU": placement.cpus_per_worker,
                **({"GPU": 1} if placement.use_gpu else {}),
                **train.resources_per_worker,
            },
        ),
        run_config=RunConfig(
            name=str(train.name),
            **ray_storage(train.storage),
            failure_config=FailureConfig(max_failures=train.max_failures),
            callbacks=[failure_callback(job.board, train.max_failures)],
        ),
        datasets={SHARD: _begin(job.board)},
        dataset_config=streams,
    )


def _outcome(
    job: Job, placement: cluster.Placement, streams: Any, store: CheckpointStore, again: str
) -> dict[str, Any]:
    """Return the result of the training loop; raise ``RunFailed`` or ``RunEnded`` if it did not return."""
    import ray
    from ray.train import TrainingFailedError

    train = job.config.train
    controllers: list[Any] = []
    trainer = _trainer(job, placement, streams, controllers.append)
    try:
        outcome: Any = trainer.fit()
    except KeyboardInterrupt:
        for controller in controllers:  # the workers must stop, too, if the cluster stays up
            with contextlib.suppress(Exception):
                ray.get(controller.abort.remote(), timeout=ABORT_S)
        raise
    except ray.exceptions.RayActorError as error:
        if "creation task" in str(error):  # Ray Train's controller could not open the storage
            why = str(error).strip().splitlines()[-1][:500]
            raise RunFailed(
                f"run {train.name} could not begin: {why}; {next_step(store, again)}"
            ) from error
        raise RunEnded(
            f"run {train.name} was ended from outside; {next_step(store, again)}"
        ) from error
    except TrainingFailedError as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise RunFailed(
            f"run {train.name} failed, after {counted(train.max_failures, 'restart')}: {last[0][:500]}; "
            f"{next_step(store, again)}"
        ) from error
    return outcome.return_value or {}


def training_stream(config: Config, manifest: Manifest) -> StreamSpec:
    """Return the stream of all training epochs on ``manifest``."""
    if config.data.reverse != "never":
        logger.info(reversal(config.data, manifest.classes))
    return stream_spec(
        config,
        manifest,
        ClipSpec.training(
            config.data, flip=manifest.flip, flip_map=manifest.flip_map, classes=manifest.classes
        ),
        num_epochs=config.optim.epochs,
        shuffle=True,
        balance=config.data.balance,
        quarantine=quarantine(),
    )


def _validation(config: Config, manifest: Manifest | None) -> Validation | None:
    if manifest is None:
        return None
    one_pass = stream_spec(config, manifest, ClipSpec.one_clip(config.data))
    return Validation(one_pass, config.train.val_every_epochs)


def stream_spec(config: Config, manifest: Manifest, clip: ClipSpec, **order: Any) -> StreamSpec:
    """Return the stream of a manifest under ``config``; the rows of the manifest go to the object store."""
    return StreamSpec(
        videos=put_videos(manifest),
        num_videos=len(manifest.usable),
        global_batch=config.optim.batch_size,
        clip=clip,
        seed=config.train.seed,
        clips_per_task=config.data.clips_per_task,
        block_bytes=BLOCK_BYTES,
        cpus_per_task=config.data.cpus_per_task,
        prefetch_batches=config.data.prefetch_batches,
        decode_deadline_s=config.data.decode_deadline_s,
        store_patience_s=config.train.store_patience_s,
        max_cpus=config.data.max_cpus,
        **order,
    )
