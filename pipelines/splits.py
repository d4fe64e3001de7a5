"""Train and measure the published splits of a data set with one config, and average the results.

    stm splits --config ucf101-t16 --manifests manifests/ucf101

This reads manifests/ucf101/split{1,2,3}/{train,val}.parquet and trains the runs NAME-split1, NAME-split2 and
NAME-split3. The same command continues an interrupted one; a split that is already trained is only measured.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pipelines.console import logger
from pipelines.options import Address, OutputOrNull, Protocol, Workers
from stm.bounds import Rule
from stm.config import Config
from stm.errors import UserError
from stm.plural import counted
from stm.results import EvaluateResult, TrainResult
from stm.storage import glob, join

if TYPE_CHECKING:
    from stm.data.manifest import Manifest

_Numbers = Annotated[
    list[int], Rule(lambda each: min(each, default=1) >= 1, "must be numbers of at least 1")
]
_MEASURES = ("top1", "top5", "mean_class_accuracy")


@dataclass(frozen=True)
class Split:
    """One published split: its number and its manifests."""

    number: int
    train: str
    val: str


def splits(
    config: Config,
    *,
    manifests: str,
    splits: _Numbers = [1, 2, 3],  # noqa: B006  (never changed)
    protocol: Protocol = "accurate",
    output: OutputOrNull = None,
    workers: Workers = None,
    address: Address = None,
) -> dict[str, Any]:
    """Train and measure each published split of UCF-101 or HMDB-51, and average the results.

    The last checkpoint of each split is measured, because the best one is chosen on the same videos. All
    manifests must exist before training starts, and no two splits may be the same.

    Examples:
        stm splits --config ucf101-t16 --manifests manifests/ucf101
        stm splits --config hmdb51-t16 --manifests manifests/hmdb51 --workers 2 --json
        stm splits --config ucf101-t16 --manifests manifests/ucf101 --splits 1 --protocol efficient

    Args:
        manifests: folder with the folders split1, split2 and split3, each with train.parquet and val.parquet
        splits: numbers of the splits to run
        output: folder for the scores and figures of each split
    """
    if config.train.name is None:
        raise UserError(
            "--train.name is not set: the runs are called NAME-split1, ..., and are continued by name"
        )
    found = find_splits(manifests, splits)
    check_splits(found, config.data.root)

    from stm.evaluate.evaluate import evaluate
    from stm.train.trainer import train

    results = []
    for split in found:
        logger.info(f"split {split.number}: {split.train}")
        trained = train(config_of_split(config, split), address=address)
        measured = evaluate(
            trained["last_checkpoint"],
            split.val,
            protocol=protocol,
            output=str(Path(output) / f"split{split.number}") if output else None,
            num_workers=config.train.num_workers,
            root=config.data.root,
            address=address,
        )
        logger.info(
            f"split {split.number}: top-1 {measured['top1']:.2%} of {counted(measured['num_videos'], 'video')}"
        )
        results.append(row(split, trained, measured))
    return {
        "name": config.train.name,
        "protocol": protocol,
        "splits": results,
        "mean": mean(results),
    }


def find_splits(folder: str, numbers: list[int]) -> list[Split]:
    """Return the splits with these numbers. Raises ``UserError``, which names the first missing manifest."""
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--splits {numbers}: must name at least one split, and each only once")
    splits = []
    for number in numbers:
        own = join(folder, f"split{number}")
        paths = [join(own, f"{part}.parquet") for part in ("train", "val")]
        for path in paths:
            if not glob(own, os.path.basename(path)):
                raise UserError(
                    f"--manifests {folder}: there is no {path}; "
                    f"`stm index --split {number} ... --output split{number}` writes it"
                )
        splits.append(Split(number, *paths))
    return splits


def check_splits(splits: list[Split], root: str | None = None) -> None:
    """Raise ``UserError`` if classes differ or two numbers name the same split, so that a mean has no meaning.

    Classes are matched by name (`Manifest.with_classes`); a test list may lack some of them, a training list may not.
    """
    from stm.data.manifest import Manifest

    first: Manifest | None = None
    seen: dict[str, str] = {}
    for split in splits:
        for path in (split.train, split.val):
            read = Manifest.read(path, root)
            first = first or read
            manifest = read.with_classes(first.classes, name=path, of=splits[0].train)
            if path == split.train:
                first.with_classes(read.classes, name=splits[0].train, of=path)
            same = seen.setdefault(manifest.fingerprint, path)
            if same != path:
                raise UserError(
                    f"{path} lists the same videos as {same}: index each split with its own --split"
                )


def config_of_split(config: Config, split: Split) -> Config:
    """Return the config with the manifests of a split, and NAME-splitN as the run's name."""
    return replace(
        config,
        data=replace(config.data, train=split.train, val=split.val),
        train=replace(config.train, name=f"{config.train.name}-split{split.number}"),
    )


def row(split: Split, trained: TrainResult, measured: EvaluateResult) -> dict[str, Any]:
    """Return the row of a split in the result."""
    return {
        "split": split.number,
        "run": trained["run"],
        "checkpoint": trained["last_checkpoint"],
        **{name: measured[name] for name in (*_MEASURES, "num_videos", "unreadable")},
    }


def mean(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean over splits, with equal weights as is usual on these data sets."""
    return {name: sum(each[name] for each in rows) / len(rows) for name in _MEASURES}


def show(result: dict[str, Any]) -> str:
    lines = [f"{result['name']}, {result['protocol']}", "  split   top-1   top-5  mean class  N"]
    for each in result["splits"]:
        lines.append(f"  {each['split']:<5}{_percent(each)}  {each['num_videos']}")
        if each["unreadable"]:
            lines[-1] += f", of which {each['unreadable']} unreadable and counted as wrong"
    lines.append(f"  {'mean':<5}{_percent(result['mean'])}")
    return "\n".join(lines)


def _percent(measures: dict[str, Any]) -> str:
    top1, top5, mean_class = (f"{measures[name]:.2%}" for name in _MEASURES)
    return f"{top1:>8}{top5:>8}{mean_class:>12}"
