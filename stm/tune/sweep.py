"""A sweep from start to end: place it, run its trials through Ray Tune, record it, and say what it found."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stm import cluster, ending, ray_compat, tracking
from stm.checkpoint import format as checkpoints
from stm.checkpoint import pretrained
from stm.data.annotations.formats import test_list_of
from stm.data.manifest import Manifest
from stm.errors import UserError
from stm.log import get_logger
from stm.plural import counted
from stm.storage import is_url, join, make_writable, resolved, write_bytes
from stm.train.checks import check_network, read_manifest
from stm.train.folders import ray_storage, working_folder
from stm.train.start import start_of
from stm.tune import record, results
from stm.tune.checking import networks
from stm.tune.notice import KEEP_S, give, open_notice
from stm.tune.placement import Shares, share
from stm.tune.settings import Sweep

logger = get_logger(__name__)

TRIAL_MEMORY_BYTES = 256 * 2**20
"""What a trial's own process reserves. It needs no CPU: its training does, and reserves its own."""

_MOST_TRIED = 32
"""Networks of a search that are tried with the weights that they begin with; it takes a second each."""

# Read by Ray Tune; a value the user has set wins.
_ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # a trial that began must be known to a driver that continues
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # reports are written by stm.tune.watch
    "RAY_AIR_NEW_OUTPUT": "0",  # the other reporter prints boxes even when it is told to be silent
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def run_sweep(sweep: Sweep, *, address: str | None = None) -> dict[str, Any]:
    """Run every trial that is left of ``sweep``; the same call continues one that was interrupted.

    Returns sweep, folder, run_id (MLflow), trials (number by state), best (trial, settings, value, checkpoint), table,
    importance and files. Raises ``UserError`` for what the user can mend, before anything starts where it can be known,
    and KeyboardInterrupt where the sweep was interrupted.
    """
    import ray

    started = time.monotonic()
    train, epochs = _check_data(sweep)
    num_videos = len(train.usable)
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    base = sweep.base
    storage = resolved(base.train.storage)
    uri = tracking.tracking_uri(base.tracking, storage)
    if is_url(storage):
        make_writable(join(storage, sweep.name))
    folder = working_folder(storage, sweep.name)
    weights = {} if _is_complete(sweep, folder) else _weights(sweep, train.classes)
    cluster.connect(address, num_cpus=cluster.logical_cpus(base), dashboard=True)
    shares = _place(sweep, folder)
    logger.info(
        f"sweep {sweep.name}: {counted(sweep.num_trials, 'trial')} of up to {counted(epochs, 'epoch')} in {folder}"
    )
    logger.info(f"  {shares}")

    folder.mkdir(parents=True, exist_ok=True)
    if results.check_state(folder / "sweep.json", sweep.identity(), sweep.name):
        logger.info("  it exists: continuing")
    placement = json.dumps({"concurrent": shares.concurrent})
    write_bytes(str(folder / "placement.json"), placement.encode())
    tracker = tracking.open_run(
        replace(base, train=replace(base.train, storage=storage)), folder, sweep.name
    )
    parent = record.Parent(uri, tracker.run_id) if uri else None
    tracker.tags({"stm.sweep": sweep.name, "stm.placement": str(shares)})
    tracker.params({**sweep.identity()["space"], "searcher": sweep.searcher, "epochs": epochs})
    tracker.status("RUNNING")
    tracker.deliver(patient=True)
    status, interrupted = "FAILED", False
    try:
        if not _is_complete(sweep, folder):
            from stm.tune.trial import Job

            with open_notice() as notice:
                job = Job(
                    sweep=sweep,
                    storage=join(storage, sweep.name),
                    epochs=epochs,
                    num_videos=num_videos,
                    shares=shares,
                    parent=parent,
                    plugin=checkpoints.load_plugin(sweep.base),
                    notice=notice,
                    weights={name: ray.put(found) for name, found in weights.items()},
                )
                with ending.stopping(lambda: _stop_tune(notice)):
                    interrupted = _run_trials(job, folder)
        found = results.read_reports(folder / results.REPORTS)
        complete = _is_complete(sweep, folder)
        for trial in found:
            if trial.state == "training":
                trial.state, trial.why = "interrupted", "the sweep was interrupted"
        if parent is not None:
            ended = found if complete else []  # one that is being killed may still write
            parent = _deliver(parent, sweep, join(storage, sweep.name), ended, tracker)
            record.close_children(parent, {trial.trial: _end(trial) for trial in found})
        result = _result(sweep, folder, found, epochs, shares, tracker)
        result["seconds"] = round(time.monotonic() - started, 1)
        if interrupted and not complete:
            raise ending.Ended(ending.received() or signal.SIGINT)
        if not complete:
            raise UserError(
                f"sweep {sweep.name}: Ray Tune ended with {len(found)} of {counted(sweep.num_trials, 'trial')} begun, "
                "or one of them unfinished, though no signal came; the same command continues it"
            )
        status = "FINISHED"
    except KeyboardInterrupt as error:
        status = "KILLED"
        error.add_note("the same command continues the sweep, each trial at its last checkpoint")
        raise
    finally:
        tracker.status(status)
        if not tracker.deliver(patient=True):
            logger.warning(f"the record waits in {tracker.spool}; the same command delivers it")
    return result


def _deliver(
    parent: record.Parent,
    sweep: Sweep,
    storage: str,
    found: list[results.TrialRecord],
    tracker: tracking.Tracker,
) -> record.Parent:
    """Deliver what waits of the sweep and of its trials, where a server was away; returns the parent as it is now."""
    tracker.deliver(patient=True)
    parent = replace(parent, run_id=tracker.run_id)
    base = replace(
        sweep.base,
        train=replace(sweep.base.train, storage=storage),
        tracking=replace(sweep.base.tracking, uri=parent.uri),
    )
    names = [f"{sweep.name}-{trial.trial}" for trial in found]
    folders = {name: working_folder(storage, name) for name in names}
    record.deliver(parent, base, folders, sweep.name)
    return parent


def _stop_tune(notice: Any) -> bool:
    """Have the trials keep a checkpoint, as a training does (not at Ctrl-C), and Ray Tune keep the sweep's state and
    return; False where it does not listen yet."""
    if not callable(signal.getsignal(signal.SIGUSR1)):
        return False
    if ending.received() != signal.SIGINT:
        with contextlib.suppress(KeyboardInterrupt):  # a second signal ends the wait
            _give_notice(notice)
    signal.raise_signal(signal.SIGUSR1)
    return True


def _give_notice(notice: Any) -> None:
    def ask() -> None:
        try:
            left = give(notice, KEEP_S)
        except Exception as error:
            logger.warning(f"the trials could not be asked: {error}")
            return
        if left:
            logger.warning(f"no checkpoint within {KEEP_S:g} s: {', '.join(left)}")

    logger.warning(f"the sweep is to end: its trials keep a checkpoint, for up to {KEEP_S:g} s")
    thread = threading.Thread(target=ask, name="notice", daemon=True)
    thread.start()
    thread.join(KEEP_S + 5)  # in a handler of signals, where Ray is not to be asked


def _weights(sweep: Sweep, classes: Sequence[str]) -> dict[str, pretrained.Pretrained]:
    """What the trials begin with, found once for all of them and tried on every network that there may be."""
    found: dict[str, pretrained.Pretrained] = {}
    tried: set[str] = set()
    try:
        for drawn, config in networks(sweep):
            model = replace(config.model, dropout=0.0, gradient_checkpointing=False)
            if model.pretrained is None or repr(model) in tried or len(tried) >= _MOST_TRIED:
                continue
            tried.add(repr(model))
            try:
                start = start_of(config, classes)
            except UserError as error:
                raise UserError(f"space: {drawn}: {error}" if drawn else str(error)) from error
            if start is not None:
                found[pretrained.key(model)] = start.weights
                pretrained.receive(found)
    finally:
        pretrained.forget()
    return found


def _check_data(sweep: Sweep) -> tuple[Manifest, int]:
    """What is trained on, and the epochs of a trial."""
    base = sweep.base
    train = read_manifest(base.data.train, "data.train", base.data.root)
    val = read_manifest(base.data.val, "data.val", base.data.root)
    val.with_classes(
        train.classes, name=f"data.val {base.data.val}", of=f"data.train {base.data.train}"
    )
    if name := test_list_of(val.dataset):
        logger.warning(
            f"{name} publishes no validation list: trials are compared on its test list, so the best trial's "
            "accuracy is too high"
        )
    check_network(base, train)
    epochs = sweep.epochs(len(train.usable))
    grace = sweep.scheduler.grace_epochs or base.train.val_every_epochs
    if sweep.scheduler.name == "asha" and grace > epochs:
        raise UserError(
            f"scheduler.grace_epochs {grace} is more than the budget of {counted(epochs, 'epoch')}"
        )
    return train, epochs


def _place(sweep: Sweep, folder: Path) -> Shares:
    import ray

    inline = replace(sweep.base, train=replace(sweep.base.train, validation="inline"))
    trial = cluster.place(inline)
    has = ray.cluster_resources()
    at_once = sweep.max_concurrent
    with contextlib.suppress(OSError, ValueError):  # a sweep that is continued keeps its number
        at_once = json.loads((folder / "placement.json").read_text())["concurrent"]
    return share(trial, has.get("CPU", 0.0), has.get("GPU", 0.0), sweep.num_trials, at_once)


def _is_complete(sweep: Sweep, folder: Path) -> bool:
    found = results.read_reports(folder / results.REPORTS)
    return len(found) >= sweep.num_trials and all(trial.state != "training" for trial in found)


def _run_trials(job: Any, folder: Path) -> bool:
    """Run what is left of the trials; whether a signal ended that."""
    from ray import tune

    from stm.tune.trial import Trial
    from stm.tune.watch import Watch

    if not ray_compat.has_dashboard():
        raise UserError(
            "this Ray cluster runs without its dashboard, through which Ray learns that a trial has been ended and "
            "gives its CPUs back: start the head with `ray start --head --include-dashboard=true`"
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the watch says it, in our words
    sweep = job.sweep
    trainable = tune.with_resources(
        tune.with_parameters(Trial, job=job), {"CPU": 0, "memory": TRIAL_MEMORY_BYTES}
    )
    space = {
        name: domain.to_tune(grid=sweep.searcher == "grid") for name, domain in sweep.space.items()
    }
    storage = ray_storage(job.storage)
    path = f"{storage['storage_path']}/tune"
    filesystem = storage.get("storage_filesystem")
    if tune.Tuner.can_restore(path, storage_filesystem=filesystem):
        tuner = tune.Tuner.restore(
            path,
            trainable=trainable,
            resume_errored=True,
            param_space=space,
            storage_filesystem=filesystem,
        )
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric=sweep.metric,
                mode=sweep.mode,
                num_samples=1 if sweep.searcher == "grid" else sweep.num_trials,
                search_alg=_searcher(sweep, job.shares.concurrent),
                scheduler=_scheduler(sweep, job.epochs),
                max_concurrent_trials=(
                    job.shares.concurrent if sweep.searcher == "optuna" else None
                ),
                trial_name_creator=_trial_id,
                trial_dirname_creator=_trial_id,
            ),
            run_config=tune.RunConfig(
                name="tune",
                **storage,
                failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
                callbacks=[Watch(folder, sweep, job.epochs, job.shares.cost_unit)],
                verbose=0,
            ),
        )
    ended, interrupted = _fit(tuner)
    interrupted = interrupted or ending.received() is not None
    if not interrupted:
        results.close_unknown(folder / results.REPORTS, {Path(trial.path).name for trial in ended})
    return interrupted


def _fit(tuner: Any) -> tuple[Any, bool]:
    """What Ray Tune found, and whether a signal ended it.

    Ray Tune returns in both cases alike. But its handlers of signals put back the one of SIGINT that was there before
    them, when they are called and only then.
    """
    if threading.current_thread() is not threading.main_thread():
        return tuner.fit(), False  # where Ray Tune handles no signal
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        found = tuner.fit()
        return found, signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            if handler is not None:  # None is one that was not set from Python
                signal.signal(number, handler)


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)


def _searcher(sweep: Sweep, concurrent: int) -> Any:
    if sweep.searcher == "optuna":
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return OptunaSearch(seed=sweep.seed)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(max_concurrent=concurrent, random_state=sweep.seed)


def _scheduler(sweep: Sweep, epochs: int) -> Any:
    from ray.tune import schedulers

    chosen = sweep.scheduler
    if chosen.name == "asha":
        return schedulers.ASHAScheduler(
            time_attr="epoch",  # the run's own: what Ray Tune counts begins anew when a trial does
            max_t=epochs,
            grace_period=chosen.grace_epochs or sweep.base.train.val_every_epochs,
            reduction_factor=chosen.reduction_factor,
        )
    if chosen.name == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=chosen.perturb_epochs or max(1, epochs // 4),
            hyperparam_mutations={
                name: domain.to_tune(grid=False) for name, domain in sweep.space.items()
            },
        )
    return schedulers.FIFOScheduler()


def _end(trial: results.TrialRecord) -> tuple[str, str]:
    """MLflow's status of a trial, and why it ended."""
    status = {"finished": "FINISHED", "failed": "FAILED"}.get(trial.state, "KILLED")
    return status, f"{trial.state}: {trial.why}"


def _result(
    sweep: Sweep,
    folder: Path,
    found: list[results.TrialRecord],
    epochs: int,
    shares: Shares,
    tracker: tracking.Tracker,
) -> dict[str, Any]:
    figures, importance = results.draw(folder, found, sweep, shares.cost_unit)
    files = [results.write_parquet(folder / "results.parquet", found), *figures] if found else []
    best = results.best_of(found, sweep)
    described = None
    if best is not None:
        files.insert(
            0, results.write_best(folder / "best.yaml", sweep, best, epochs, shares.cost_unit)
        )
        value = best.best(sweep.metric, sweep.mode)
        described = {
            "trial": best.trial,
            "settings": best.settings,
            sweep.metric: value,
            "epochs": best.last_epoch,
            "cost": best.last("cost"),
        }
        tracker.metrics({f"best_{sweep.metric}": value or 0.0}, len(found))
        tracker.tags({"stm.best_trial": best.trial})
    for file in files:
        tracker.artifact(file)
    return {
        "sweep": sweep.name,
        "folder": str(folder),
        "run_id": tracker.run_id,
        "trials": dict(Counter(trial.state for trial in found)),
        "failures": {trial.trial: trial.why for trial in found if trial.state == "failed"},
        "best": described,
        "cost_unit": shares.cost_unit,
        "importance": importance,
        "table": results.table_rows(found, sweep, epochs),
        "files": [str(file) for file in files],
    }
