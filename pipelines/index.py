"""Probe every video of a dataset once and write its manifests, one for each split.

    stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output index/ucf101

writes index/ucf101/train.parquet and val.parquet, and beside each the list of videos that cannot be
used. The same command again probes only what is new or has changed.
"""

from __future__ import annotations

from typing import Annotated, Any

from pipelines.options import Address, Count, FileOrNull, Output, Positive
from stm.bounds import Bounds
from stm.config import DataConfig


def index(
    *,
    format: str,
    root: str,
    annotations: FileOrNull = None,
    split: int = 1,
    output: Output,
    val_fraction: float | None = None,
    classes: FileOrNull = None,
    split_folders: str = "auto",
    seed: int = 0,
    deadline_s: Positive = 30.0,
    max_pixels: Count = DataConfig.max_pixels,
    decode_mib: Count = DataConfig.decode_mib,
    cross_check: Annotated[int, Bounds(ge=0)] = 20,
    address: Address = None,
) -> dict[str, Any]:
    """Probe every video of a dataset once, write its manifest.

    The result names the manifests and counts what is in them. The same command again probes only what is new or has
    changed. Where a split has no usable video, that is said after everything is written.

    Examples:
        stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output ucf101
        stm index --format folder --root videos --val_fraction 0.2 --output index/mine
        stm index --format list --root videos --annotations list.csv --output index/mine --json

    Args:
        format: of the annotations, such as folder, list or ucf101 (docs/lists.md has them all)
        root: folder (or URL) of the videos
        annotations: folder or file of the lists; null looks in the root and the usual places in it
        split: published split of ucf101, hmdb51 and lists numbered so: 1, 2 or 3
        output: folder for the manifests
        val_fraction: share of each class to hold out as val, by group, where there is one split only
        classes: class names and their order: another manifest (.parquet), or a file of names
        split_folders: format folder: whether the root's folders are splits (yes) or classes (no); auto asks where their
            names leave it open
        seed: draws the groups that are held out
        deadline_s: seconds a file may take to be probed
        max_pixels: pixels a frame may have (8K video has half as many); larger ones are too_large
        decode_mib: memory that decoding a file may take, in MiB; what takes more is too_large
        cross_check: number of files that decord reads as well, to compare; 0 compares none
    """
    from stm.dataset import index as write_manifests

    return write_manifests(
        root,
        output,
        format=format,
        annotations=annotations,
        split=split,
        val_fraction=val_fraction,
        classes=classes,
        split_folders=split_folders,
        seed=seed,
        deadline_s=deadline_s,
        cross_check=cross_check,
        max_pixels=max_pixels,
        decode_mib=decode_mib,
        address=address,
    ).as_dict()


def show(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{path}: {result['num_videos'][name] - result['bad'][name]} videos"
        + (f", and {result['bad'][name]} unusable" if result["bad"][name] else "")
        for name, path in result["manifests"].items()
    )
