"""Writes the report of an evaluation. An error in the report never loses the result."""

from __future__ import annotations

import shlex
import time
import traceback
from pathlib import Path
from typing import Any

from stm.checkpoint import format as checkpoints
from stm.data.manifest import Manifest
from stm.errors import UserError
from stm.evaluate.protocols import protocol as named_protocol
from stm.log import get_logger
from stm.report import page
from stm.report.facts import Facts, fingerprint_of
from stm.report.record import read_record
from stm.report.time_use import TimeUse
from stm.scoring.inference import Scores
from stm.scoring.metrics import Metrics
from stm.storage import absolute, is_url, make_writable
from stm.train.folders import working_folder
from stm.train.summary import versions

logger = get_logger(__name__)


def run_folder(checkpoint: str) -> Path:
    """Return the folder in which the driver of the run that wrote ``checkpoint`` stores its record."""
    if not is_url(checkpoint):
        return Path(checkpoint).resolve().parent
    storage, _, name = checkpoint.rstrip("/").rpartition("/")[0].rpartition("/")
    return working_folder(storage, name)


def output_folder(
    output: str | None,
    checkpoint: str,
    protocol: str,
    manifest_path: str,
    report: bool,
) -> Path | None:
    """Create and return the output folder, before the evaluation starts; None if nothing is to be written.

    Raises ``UserError`` if a given ``output`` is not writable. If the run directory is not writable, a warning is
    logged, and the evaluation runs without a report.
    """
    if output is None and not report:
        return None
    beside = run_folder(checkpoint) / f"evaluate-{protocol}-{Path(manifest_path).stem}"
    folder = beside if output is None else Path(output)
    try:
        make_writable(folder)
    except OSError as error:
        if output is not None:
            raise UserError(f"--output {output}: cannot be written to ({error.strerror})") from None
        logger.warning(
            f"no report: {folder} cannot be written to ({error.strerror}); name an --output"
        )
        return None
    return folder


def write_report(
    folder: Path,
    *,
    protocol: str,
    num_segments: int,
    checkpoint: str,
    which: str,
    flattered: str | None,
    meta: checkpoints.Meta,
    manifest_path: str,
    manifest: Manifest,
    manifest_fingerprint: str,
    scores: Scores,
    metrics: Metrics,
    seconds: float,
    options: dict[str, Any],
    time_use: TimeUse | None = None,
    pairs_from: str = "",
) -> dict[str, str]:
    """Write the page and its figures; return their paths. Errors are logged, so that the result is not lost."""
    try:
        facts = Facts(
            protocol=protocol,
            num_views=named_protocol(protocol).num_views,
            num_segments=num_segments,
            size=checkpoints.config_of(meta).data.size,
            command=_command(checkpoint, manifest_path, protocol, num_segments, options),
            seconds=seconds,
            checkpoint=absolute(checkpoint),
            which=which,
            flattered=flattered,
            meta=meta,
            model_fingerprint=fingerprint_of(checkpoint),
            manifest_path=absolute(manifest_path),
            manifest=manifest,
            manifest_fingerprint=manifest_fingerprint,
            scores=scores,
            metrics=metrics,
            record=read_record(run_folder(checkpoint), checkpoint),
            versions=versions(),
            time_use=time_use,
            pairs_from=pairs_from,
            when=time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        )
        return page.write(facts, folder)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        logger.warning(
            f"the report could not be written ({type(error).__name__}: {error}; {where.name}, {where.filename} line "
            f"{where.lineno}); the scores are in {folder}"
        )
        return {}


def _command(
    checkpoint: str, manifest_path: str, protocol: str, num_segments: int, options: dict[str, Any]
) -> str:
    """Return the command that repeats this evaluation from any directory."""
    named = {
        "checkpoint": absolute(checkpoint),
        "manifest": absolute(manifest_path),
        "protocol": protocol,
        "num_segments": num_segments,
        **options,
    }
    words = ["stm", "evaluate"]
    for name, value in named.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
