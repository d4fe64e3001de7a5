"""Open every video of a data set once and write its manifests, one for each split.

    stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output index/ucf101

This writes index/ucf101/train.parquet and val.parquet, and beside each a list of the videos that cannot be used. When
the command is run again, it opens only videos that are new or have changed.
"""

from __future__ import annotations

from typing import Annotated, Any

from pipelines.options import Address, Count, FileOrNull, Output, Positive
from stm.bounds import Bounds
from stm.config import DataConfig, Seed
from stm.plural import counted


def index(
    *,
    format: str,
    root: str,
    annotations: FileOrNull = None,
    split: Count = 1,
    output: Output,
    val_fraction: Annotated[float | None, Bounds(gt=0, lt=1)] = None,
    classes: FileOrNull = None,
    split_folders: str = "auto",
    seed: Seed = 0,
    deadline_s: Positive = 30.0,
    max_pixels: Count = DataConfig.max_pixels,
    decode_mib: Count = DataConfig.decode_mib,
    cross_check: Annotated[int, Bounds(ge=0)] = 20,
    address: Address = None,
) -> dict[str, Any]:
    """Open every video of a data set once and write its manifests.

    There is one manifest for each split. When the command is run again, it opens only videos that are new or have
    changed. After everything is written, a split without a usable video is an error.

    Examples:
        stm index --format ucf101 --root UCF-101 --annotations ucfTrainTestlist --output ucf101
        stm index --format folder --root videos --val_fraction 0.2 --output index/mine
        stm index --format list --root videos --annotations list.csv --output index/mine --json

    Args:
        format: format of the annotations, such as folder, list or ucf101; docs/lists.md lists all of them
        root: folder or URL of the videos
        annotations: folder or file of the lists; null looks for them in the root
        split: number of the published split (1, 2 or 3) of ucf101, hmdb51 and other lists with numbered splits
        output: folder for the manifests
        val_fraction: share of each class to hold out for validation, in whole groups, if there is only one split
        classes: another manifest (.parquet) or a file of names that gives the classes and their order
        split_folders: for the format folder, whether the root's folders are splits (yes) or classes (no); auto decides
            by their names, and reports an error if the names are not clear
        seed: seed for choosing the groups that are held out
        deadline_s: seconds that opening one video may take
        max_pixels: largest number of pixels in a frame; larger videos get the status too_large (the default is
            twice an 8K frame)
        decode_mib: memory that decoding one video may use, MiB; videos that need more get the status too_large
        cross_check: number of videos that are also read with decord, for comparison
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
        f"{path}: {counted(result['num_videos'][name] - result['bad'][name], 'video')}"
        + (f", and {result['bad'][name]} unusable" if result["bad"][name] else "")
        for name, path in result["manifests"].items()
    )
