"""Find the checkpoint that a user names: a checkpoint, a run directory, a URL, or a registered model.

    locate("runs/first").directory              # "runs/first/checkpoint-00000120", the best by validation
    locate("runs/first", which="last").taken    # {"which": "last", "step": 160, "epoch": 8}
    locate("models:/ucf101@champion").label     # "models:/ucf101/3"

A registered version is downloaded once, and cached by the unique id of its model:
``~/.cache/stm/models/<model id>`` ($XDG_CACHE_HOME).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stm import proxy
from stm.checkpoint import format as checkpoints
from stm.checkpoint.format import Meta
from stm.checkpoint.store import CheckpointStore, best, best_whole, validated, validated_on
from stm.errors import UserError
from stm.log import get_logger
from stm.storage import is_url, scratch

logger = get_logger(__name__)

WHICH = ("best", "last")
CHAMPION = "champion"
DATA = "data/checkpoint"
"""Folder of the checkpoint in a registered model."""
PREFIX = "models:/"
MODEL_ID = "stm.model_id"
"""Tag of a version with the id of its model, which MLflow's databases do not store."""

_MLFLOW_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
_ASKING = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
"""Limits, about 20 s, for the first request to a server, unless the user has set others. Files may take longer."""

_URI = re.compile(r"models:/(?P<name>[^/:@]+)(?:@(?P<alias>[^/:@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Located:
    """A checkpoint that was found."""

    directory: str
    """Folder or URL that ``stm.checkpoint.format`` reads."""
    label: str
    """Its name in results: the folder, or ``models:/NAME/VERSION``."""
    meta: Meta
    which: str
    """``best`` or ``last`` of a run directory, or ``named`` if the user named the checkpoint itself."""

    @property
    def was_chosen(self) -> bool:
        """Whether a validation chose it: it is the best of its run, and, if it was named itself, not also the last."""
        if self.which != "named":
            return self.which == "best"
        run, _, _ = self.directory.rstrip("/").rpartition("/")
        found = CheckpointStore(run or ".").checkpoints()
        paths = [best(found)[0], found[-1][0]] if found else ["", ""]
        name = self.directory.rstrip("/").rpartition("/")[2]
        return [path.rpartition("/")[2] == name for path in paths] == [True, False]

    @property
    def taken(self) -> dict[str, Any]:
        """``which``, ``step`` and ``epoch`` (epochs done), as results show them."""
        return {"which": self.which, "step": self.meta.step, "epoch": self.meta.position.epoch}


def locate(checkpoint: str, tracking: str | None = None, which: str = "best") -> Located:
    """Find the checkpoint of a path, a run directory or ``models:/...``; a registered one is downloaded.

    ``tracking`` is the server or database of a registered one (see `store_of`). ``which`` chooses in a run directory:
    ``best`` by validation (the last, if none is validated), or ``last``. The choice is logged. Raises ``UserError`` if
    there is none.
    """
    if not checkpoint.startswith(PREFIX):
        return find(checkpoint, which)
    return _say(checkpoint, _registered(checkpoint, tracking), which)


def find(path: str, which: str = "best") -> Located:
    """Find the checkpoint of a path or a run directory, as `locate` does."""
    if which not in WHICH:
        raise UserError(f"--which {which}: must be {' or '.join(WHICH)}")
    return _say(path, _in_storage(path, which), which)


def resolve(path: str, which: str = "best") -> str:
    """Return the folder or URL of the checkpoint that `find` finds."""
    return find(path, which).directory


def _say(checkpoint: str, located: Located, which: str) -> Located:
    named = located.which == "named"
    kind = "" if named else f"its {located.which} checkpoint, "
    aside = " (it is one checkpoint: --which chooses in a run directory)" if named else ""
    logger.info(f"{checkpoint}: {kind}{described(located.meta)}{aside if which == 'last' else ''}")
    return located


def described(meta: Meta) -> str:
    """Describe the position of training and its validation: ``step 120, epoch 6, validation top-1 72.0%``."""
    epoch, offset = meta.position.epoch, meta.position.offset
    top1 = meta.metrics.get("val_top1")
    said = "not validated" if top1 is None else f"validation top-1 {top1:.1%}"
    return f"step {meta.step}, {f'in epoch {epoch + 1}' if offset else f'epoch {epoch}'}, {said}"


def _registered(checkpoint: str, tracking: str | None) -> Located:
    found = _URI.fullmatch(checkpoint)
    if found is None:
        raise UserError(
            f"{checkpoint}: a registered model is models:/NAME@{CHAMPION}, or models:/NAME/VERSION"
        )
    from mlflow.exceptions import MlflowException

    uri = store_of(tracking)
    name = found["name"]
    try:
        client = open_client(uri, create=False)
        version = (
            client.get_model_version_by_alias(name, found["alias"])
            if found["alias"]
            else client.get_model_version(name, found["version"])
        )
        label = f"{PREFIX}{name}/{version.version}"
        model_id = version.tags.get(MODEL_ID, "")
        if not re.fullmatch(r"[\w-]+", model_id):
            raise UserError(
                f"{checkpoint} in {uri} was not registered by stm: it has no tag {MODEL_ID}"
            )
        location = client.get_model_version_download_uri(name, version.version)
        directory = _fetched(uri, location, label, model_id)
        return Located(directory, label, checkpoints.read_meta(directory), "named")
    except MlflowException as error:
        raise UserError(
            f"{checkpoint}: not in {uri}: {error.message.strip().rstrip('.')}. `stm register` adds a model; "
            "--tracking names another server or database"
        ) from error


def _in_storage(path: str, which: str) -> Located:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        checkpoints.read_file(path, checkpoints.META)
        return Located(path, path, checkpoints.read_meta(path), "named")
    if not is_url(path) and not os.path.exists(path):
        raise UserError(f"--checkpoint {path}: no such directory")
    found = CheckpointStore(path).checkpoints()
    if not found:
        raise UserError(
            f"--checkpoint {path}: neither a checkpoint (no {checkpoints.META} in it) nor a run directory with one"
        )
    taken, meta = found[-1] if which == "last" else best_whole(found)
    chosen = which == "best" and validated(meta, validated_on(found)) is not None
    return Located(taken, taken, meta, "best" if chosen else "last")


def store_of(tracking: str | None) -> str:
    """Return the registry: the given one, else $MLFLOW_TRACKING_URI, else runs/mlflow.db. Raises ``UserError``."""
    given = tracking or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    beside = Path("runs").resolve() / "mlflow.db"
    if not beside.exists():
        raise UserError(
            "the registry is not set: give --tracking (such as sqlite:////path/runs/mlflow.db, or a server's URL), set "
            f"$MLFLOW_TRACKING_URI, or work where there is a {beside.parent.name}/{beside.name}"
        )
    return f"sqlite:///{beside}"


def open_client(uri: str, create: bool = True) -> Any:
    """Return an ``MlflowClient`` for a server or database. Raises ``UserError`` if it does not answer or exist.

    ``create`` creates a missing database in an existing folder. MLflow's global settings are not changed.
    """
    for key, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    usual = {key: os.environ[key] for key in _ASKING if os.environ[key] == _MLFLOW_ENVIRONMENT[key]}
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # The caller tells a database error in one message; MLflow logs a long traceback each time.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.parent.is_dir():
            raise UserError(f"--tracking {uri}: no such folder")
        if not create and not database.exists():
            raise UserError(f"--tracking {uri}: no such database; `stm register` creates one")
    os.environ.update({key: _ASKING[key] for key in usual})
    try:
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    except Exception as error:  # each store raises its own errors
        raise UserError(
            f"--tracking {uri} does not answer: {_reason(error)}{proxy.named(uri)}"
        ) from error
    finally:
        os.environ.update(usual)
    return client


def _reason(error: BaseException) -> str:
    """Return the system's message for a failed connection (`Connection refused`), else the store's whole message."""
    innermost = error
    while inner := innermost.__cause__ or innermost.__context__:
        innermost = inner
    if isinstance(innermost, OSError):
        return innermost.strerror or str(innermost)
    return str(error)


def _fetched(uri: str, location: str, label: str, model_id: str) -> str:
    """Return the folder of a registered model's checkpoint in the cache; download it, whole or not at all."""
    import mlflow.artifacts

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stm" / "models"
    target = cache / model_id
    if not (target / checkpoints.META).exists():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with scratch(cache, model_id) as partial:
                folder = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"{location}/{DATA}",
                    dst_path=str(partial),
                    tracking_uri=uri,
                    registry_uri=uri,
                )
                checkpoints.read_meta(folder)  # UserError if stm did not register it
                try:
                    os.replace(folder, target)
                except OSError:
                    # Another process may have downloaded it.
                    if not (target / checkpoints.META).exists():
                        raise
        except OSError as error:
            raise UserError(f"{label} cannot be saved in {cache}: {error}") from error
    return str(target)
