"""Register a checkpoint in MLflow's registry: measure it, pack it, write its model card, and move the champion alias.

Try: ``stm register --checkpoint runs/first --name actions --manifest val.parquet --rule better:top1``
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

from stm.checkpoint import format as checkpoints
from stm.checkpoint.locate import CHAMPION, MODEL_ID, PREFIX, find, open_client
from stm.errors import UserError
from stm.evaluate.reporting import run_folder
from stm.log import get_logger
from stm.package import rules
from stm.packing.card import model_card
from stm.packing.contents import pinned_requirements
from stm.packing.logged import log_package, num_parameters
from stm.redaction import redact
from stm.results import EvaluateResult
from stm.storage import is_url
from stm.tracking import experiment_of, known_runs, place_of, tracking_uri
from stm.version import __version__

logger = get_logger(__name__)

_NAME = re.compile(r"[\w .-]+")
_MOST_DESCRIPTION = 5000


def register(
    checkpoint: str,
    name: str,
    *,
    which: str = "best",
    rule: str = "never",
    manifest: str | None = None,
    root: str | None = None,
    protocol: str = "efficient",
    tracking: str | None = None,
    num_workers: int = 1,
    address: str | None = None,
) -> dict[str, Any]:
    """Register a checkpoint (of a run directory, its ``which``: best or last) as a new version of ``name``.

    With ``manifest``, the checkpoint is first measured under ``protocol``. The numbers go on the card and into the
    version's tags, and ``rule`` compares them (``stm.package.rules``). If the rule cannot be applied, nothing is
    written.

    Args:
        root: the folder or URL of the manifest's videos, as in ``Manifest.read``.
        tracking: MLflow server or database; None is the one that recorded the run.

    Returns:
        name, version, uri, champion (whether this version is now the champion), reason, previous (the former champion),
        measured, checkpoint, taken (which, step, epoch), run_id (its MLflow run), card, tracking.

    Raises:
        UserError: the checkpoint or the registry does not exist, the measurements cannot be compared, or the name is
            not allowed.
    """
    rules.check(rule)
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name!r}: use letters, digits, `_`, `-`, `.` and spaces")
    if rule.startswith("better:") and manifest is None:
        raise UserError(
            f"--rule {rule} compares measurements: give --manifest, so that this checkpoint is measured"
        )
    located = find(checkpoint, which)
    directory, meta = located.directory, located.meta
    checkpoints.check_plugin(meta, directory)
    uri = tracking or _own_store(meta, directory)
    client = open_client(uri)

    with _registry_errors(uri):
        previous = champion(client, name)
    measured, per_class = None, dict[str, float | None]()
    if manifest is not None:
        from stm.evaluate.evaluate import evaluate

        result = evaluate(
            directory,
            manifest,
            root=root,
            protocol=protocol,
            num_workers=num_workers,
            address=address,
        )
        measured, per_class = _measurement(result, manifest, root, meta), result["per_class"]
    rules.decide(rule, measured, previous)  # raises before anything is written

    requirements = pinned_requirements(meta)
    command = shlex.join(
        [
            "stm",
            "evaluate",
            "--checkpoint",
            directory,
            "--manifest",
            str(manifest),
            *(["--data.root", root] if root else []),
            "--protocol",
            protocol,
        ]
    )
    card = model_card(
        name, meta, num_parameters(directory), measured, per_class, command, requirements
    )
    logger.info(f"packing {directory}")
    with _registry_errors(uri):
        experiment, run_id = home_of(client, uri, name, directory, meta)
        model_id = log_package(
            client, experiment, run_id, name, directory, meta, lambda _: card, requirements
        )
        with contextlib.suppress(
            Exception
        ):  # it exists; if not, the next call fails with the reason
            client.create_registered_model(name)
        tags = {
            MODEL_ID: model_id,
            "stm.version": __version__,
            "stm.step": str(meta.step),
            "stm.which": located.which,
            "stm.dataset": meta.dataset,
            "stm.training_manifest": meta.fingerprint,
            **(measured.to_tags() if measured else {}),
        }
        logged = client.get_logged_model(model_id)
        version = client.create_model_version(
            name,
            # With a database, MLflow would look the id up in its global store.
            f"{PREFIX}{model_id}" if uri.startswith("http") else logged.artifact_location,
            run_id=logged.source_run_id,
            tags=tags,
            description=_description(card),
            model_id=model_id,
        ).version
        # Read it again: another registration may have moved the alias while this one was packing.
        previous = champion(client, name)
        moved, reason = rules.decide(rule, measured, previous)
        if moved:
            client.set_registered_model_alias(name, CHAMPION, version)
    return {
        "name": name,
        "version": int(version),
        "uri": f"{PREFIX}{name}/{version}",
        "champion": moved,
        "reason": reason,
        "previous": int(previous.version) if previous else None,
        "measured": None if measured is None else measured.__dict__,
        "checkpoint": directory,
        "taken": located.taken,
        "run_id": logged.source_run_id,
        "tracking": uri,
        "card": card,
    }


def champion(client: Any, name: str) -> rules.Champion | None:
    """Return the version of ``name`` with the alias ``champion``; None if no version has it."""
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND"):
            return None  # no such model, or no such alias
        raise
    return rules.Champion(str(version.version), rules.Measurement.from_tags(version.tags))


def home_of(
    client: Any, uri: str, name: str, directory: str, meta: checkpoints.Meta
) -> tuple[str, str]:
    """Return ids of the experiment and of the run that trained the checkpoint; a new run if this store has none.

    The run that the run's folder records for this store comes first, then the one in the checkpoint.
    """
    from mlflow.exceptions import MlflowException

    folder = run_folder(directory)
    for run_id in dict.fromkeys(
        filter(None, (known_runs(folder).get(place_of(uri, folder)), meta.mlflow_run_id))
    ):
        with contextlib.suppress(MlflowException):
            run = client.get_run(run_id)
            if run.info.lifecycle_stage == "active":
                return run.info.experiment_id, run.info.run_id
    artifacts = None
    if uri.startswith("sqlite:///"):
        beside = Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts"
        artifacts = beside.resolve().as_uri()
    chosen = checkpoints.config_of(meta).tracking.experiment
    experiment = experiment_of(client, chosen, artifacts)
    # If a version has no run id, MLflow looks for the model's run in its global store.
    run_id = client.create_run(experiment, run_name=f"register {name}").info.run_id
    client.set_terminated(run_id, "FINISHED")
    return experiment, run_id


def _own_store(meta: checkpoints.Meta, directory: str) -> str:
    """URI of the store that recorded the run: its server, or the database next to the run's present folder."""
    config = checkpoints.config_of(meta)
    storage = config.train.storage
    if not is_url(directory):
        storage = str(Path(directory).resolve().parent.parent)
    uri = tracking_uri(config.tracking, storage)
    if uri is None:
        raise UserError("this run was trained without tracking: name a registry with --tracking")
    return uri


def _measurement(
    result: EvaluateResult, manifest: str, root: str | None, meta: checkpoints.Meta
) -> rules.Measurement:
    from stm.data.manifest import Manifest

    return rules.Measurement(
        manifest=Manifest.read(manifest, root).fingerprint,
        manifest_path=redact(manifest),
        protocol=result["protocol"],
        classes=hashlib.sha256(json.dumps(meta.classes).encode()).hexdigest(),
        **{
            key: result[key]
            for key in ("num_videos", "unreadable", "top1", "top5", "mean_class_accuracy")
        },
    )


def _description(card: str) -> str:
    """The start of the card, short enough for the description of a version in every database."""
    head = card.partition("## Training")[0]
    ending = "\n\nThe complete card is the artifact README.md.\n"
    return head[: _MOST_DESCRIPTION - len(ending)] + ending


@contextlib.contextmanager
def _registry_errors(uri: str) -> Any:
    """Raise an error of the store as a ``UserError``."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise UserError(f"{uri} reports an error: {error.message.strip()}") from error
