"""Log a checkpoint as a model of the MLflow run that trained it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from stm.checkpoint import format as checkpoints
from stm.log import get_logger
from stm.packing.card import model_card
from stm.packing.contents import pinned_requirements, save_package
from stm.storage import scratch

logger = get_logger(__name__)

CHECKPOINT = "stm.checkpoint"
"""Tag of a logged model, with the name of its checkpoint."""


def log_checkpoint(client: Any, run_id: str, checkpoint: str) -> None:
    """Log a checkpoint as a model of the run ``run_id``, unless the run already has it.

    Raises MLflow's errors, and ``OSError`` or ``UserError`` if the checkpoint cannot be read.
    """
    from mlflow.entities import LoggedModelStatus

    meta = checkpoints.read_meta(checkpoint)
    experiment = client.get_run(run_id).info.experiment_id
    tag = checkpoint.rstrip("/").rpartition("/")[2]
    for found in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if found.tags.get(CHECKPOINT) == tag and found.status == LoggedModelStatus.READY:
            return
    logger.info(
        f"packing {tag} as a model of the MLflow run (--tracking.log_model false skips this)"
    )
    name = str(meta.config.get("train", {}).get("name") or "stm")
    requirements = pinned_requirements(meta)
    size = num_parameters(checkpoint)

    def card(model_id: str) -> str:
        return model_card(name, meta, size, None, {}, "", requirements, f"models:/{model_id}")

    log_package(
        client, experiment, run_id, name, checkpoint, meta, card, requirements,
        {CHECKPOINT: tag, "stm.step": str(meta.step), "stm.manifest": meta.fingerprint},
    )  # fmt: skip


def log_package(
    client: Any,
    experiment: str,
    run_id: str,
    name: str,
    directory: str,
    meta: checkpoints.Meta,
    card: Callable[[str], str],
    requirements: list[str],
    tags: dict[str, str] | None = None,
) -> str:
    """Write the package into the store as a model of the run ``run_id``, and return its id.

    ``card`` makes the model card from that id. After an error, the model's status is FAILED.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    logged = client.create_logged_model(
        experiment,
        name=re.sub(r"[^\w-]", "-", name),
        source_run_id=run_id,
        tags=tags,
        model_type="video-classifier",
    )
    try:
        with scratch() as temporary:
            path = temporary / "model"
            model = Model(
                artifact_path=logged.artifact_location,
                run_id=run_id,
                model_uuid=logged.model_id,
                model_id=logged.model_id,
            )
            save_package(path, directory, meta, card(logged.model_id), requirements, model)
            for cache in path.rglob("__pycache__"):
                for file in cache.iterdir():
                    file.unlink()
                cache.rmdir()
            client.log_model_artifacts(logged.model_id, str(path))
            client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, meta.step)])
    except BaseException:
        client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    client.finalize_logged_model(logged.model_id, "READY")
    return str(logged.model_id)


def num_parameters(directory: str) -> int:
    """Number of weights in a checkpoint, without the running statistics of batch normalisation."""
    weights = checkpoints.read_weights(directory)
    return sum(
        value.numel()
        for key, value in weights.items()
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
