"""A sweep from start to end: places it, runs its trials with Ray Tune, records it and reports the results."""

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
"""Memory that the process of a trial reserves. It reserves no CPU: the training workers reserve theirs."""

_MOST_TRIED = 32
"""Most networks of a search that are checked against their initial weights; a check takes about a second."""

# Read by Ray Tune; values that the user has set have priority.
_ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "1",  # save often, so that a driver that continues knows all trials
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # stm.tune.watch writes the reports
    "RAY_AIR_NEW_OUTPUT": "0",  # the new reporter prints boxes even at verbosity 0
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def run_sweep(sweep: Sweep, *, address: str | None = None) -> dict[str, Any]:
    """Run all remaining trials of ``sweep``; the same call continues an interrupted sweep.

    Returns sweep, folder, run_id (MLflow), trials (number by state), best (trial, settings, value, checkpoint), table,
    importance and files. Raises ``UserError`` for errors that the user can fix, if possible before anything starts, and
    KeyboardInterrupt if the sweep was interrupted.
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
            ended = found if complete else []  # trials that are being ended may still write
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
    """Deliver the waiting records of the sweep and its trials; return the parent with its current run id."""
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
    """Make the trials save a checkpoint (not on Ctrl-C, as in training), and Ray Tune save the sweep's state and
    return. Returns False if Ray Tune does not handle the signal yet."""
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
    thread.join(KEEP_S + 5)  # a signal handler must not call Ray itself


def _weights(sweep: Sweep, classes: Sequence[str]) -> dict[str, pretrained.Pretrained]:
    """Find the initial weights of all trials once, and check them on the networks in the search."""
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
    """Read the training manifest and check the data; return it and the epochs of a trial."""
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
    with contextlib.suppress(OSError, ValueError):  # a continued sweep keeps its number
        at_once = json.loads((folder / "placement.json").read_text())["concurrent"]
    return share(trial, has.get("CPU", 0.0), has.get("GPU", 0.0), sweep.num_trials, at_once)


def _is_complete(sweep: Sweep, folder: Path) -> bool:
    found = results.read_reports(folder / results.REPORTS)
    return len(found) >= sweep.num_trials and all(trial.state != "training" for trial in found)


def _run_trials(job: Any, folder: Path) -> bool:
    """Run the remaining trials; return whether a signal interrupted them."""
    from ray import tune

    from stm.tune.trial import Trial
    from stm.tune.watch import Watch

    if not ray_compat.has_dashboard():
        raise UserError(
            "this Ray cluster runs without its dashboard, through which Ray learns that a trial has been ended and "
            "gives its CPUs back: start the head with `ray start --head --include-dashboard=true`"
        )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # stm.tune.watch reports errors
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
    """Return Ray Tune's results, and whether a signal interrupted it.

    Ray Tune returns in the same way in both cases. But its signal handlers restore the previous SIGINT handler only if
    they were called.
    """
    if threading.current_thread() is not threading.main_thread():
        return tuner.fit(), False  # Ray Tune handles no signals here
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        found = tuner.fit()
        return found, signal.getsignal(signal.SIGINT) is before[signal.SIGINT]
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set from Python
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
            time_attr="epoch",  # the run's own count; Ray Tune's restarts at 0 with the trial
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
    """Return MLflow's status of a trial, and why it ended."""
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
