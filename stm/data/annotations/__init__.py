"""Read annotations: one module for each published format, all with the same type of result.

    from stm.data.annotations import read_annotations
    annotations = read_annotations("ucf101", "/data/ucf101", split=1)

To add a format, put its reader into ``stm.data.annotations.formats``.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

from stm.bounds import number
from stm.data.annotations import formats
from stm.data.annotations.class_lists import match_classes, read_class_list
from stm.data.annotations.common import Annotations, Entry
from stm.data.annotations.mirroring import flip_rules
from stm.data.annotations.splitting import find_leaks, hold_out
from stm.data.annotations.texts import is_utf8, listening, printable
from stm.errors import UserError
from stm.plural import counted, have
from stm.storage import is_url

__all__ = ["Annotations", "Entry", "read_annotations"]


def read_annotations(
    format: str,
    root: str | os.PathLike[str],
    annotations: str | os.PathLike[str] | None = None,
    split: int = 1,
    val_fraction: float | None = None,
    seed: int = 0,
    classes: str | os.PathLike[str] | None = None,
    split_folders: str = "auto",
) -> Annotations:
    """Read a dataset's lists. No video is opened, and missing videos are kept.

    format: one of `formats.names()`.
    root: folder (or URL) of the videos.
    annotations: folder or file of the lists; None searches `root` and the usual places in it.
    split: number of the published split (1 to 3 for ucf101 and hmdb51), or of numbered lists.
    val_fraction: share of each class to hold out as `val`, in whole groups drawn with `seed`. The
        annotations must have only the split `train`.
    classes: a manifest or a file of class names. Its names and order are used, and the classes of
        the annotations are matched to them by name.
    split_folders: for the format `folder`: `yes` if the folders of root are splits, `no` if they are
        classes; `auto` decides by their names and contents.

    Raises UserError, with file, line and text, if a line is malformed or ambiguous, an id or a path
    is listed twice (in one split or two), or a split is empty.
    """
    if format not in formats.names():
        raise UserError(
            f"--format {format}: unknown format. Choose one of {', '.join(formats.names())}."
        )
    reader = formats.module(format)
    num_splits = getattr(reader, "NUM_SPLITS", 1)
    if not 1 <= split <= num_splits:
        there = "one split" if num_splits == 1 else f"the splits 1 to {num_splits}"
        raise UserError(f"--split {split}: --format {format} has {there}.")
    if split_folders not in ("auto", "yes", "no"):
        raise UserError(f"--split_folders {split_folders}: must be auto, yes or no.")
    if split_folders != "auto" and format != "folder":
        raise UserError("--split_folders: works only with --format folder.")
    root = os.fspath(root)
    if not is_utf8(root):
        raise UserError(f"--root {printable(root)}: its name is not UTF-8. Rename the folder.")
    if not is_url(root) and not os.path.isdir(root):
        wrong = "is a file, not a folder" if os.path.exists(root) else "no such folder"
        raise UserError(f"--root {root}: {wrong}. Give the folder of the videos.")
    named = None if annotations is None else os.fspath(annotations)
    if named is not None and not os.path.exists(named):
        raise UserError(f"--annotations {named}: no such file or folder.")
    if named is not None and not (os.path.isfile(named) or os.path.isdir(named)):
        raise UserError(
            f"--annotations {named}: is neither a file nor a folder, but a pipe or a device, which can be read "
            "only once. Write the list to a file."
        )
    if classes is not None and not os.path.isfile(classes):
        raise UserError(f"--classes {os.fspath(classes)}: no such file.")
    with listening() as said:
        more = (split_folders,) if format == "folder" else ()
        read = reader.read(root, named, split, *more)
        for name, entries in read.splits.items():
            if not entries:
                raise UserError(f"split {name!r} of --root {root} lists no videos.")
        _refuse_duplicates(read.splits)
        if classes is not None:
            read = match_classes(read, read_class_list(Path(classes)))
    splits = {
        name: [_printable(entry) for entry in entries] for name, entries in read.splits.items()
    }
    if val_fraction is not None:
        splits = _hold_out(splits, val_fraction, seed)
    flip, flip_map = flip_rules(read.classes)
    warnings = [*said.warnings, *find_leaks(splits), *_missing_classes(read.classes, splits)]
    return dataclasses.replace(
        read,
        splits=splits,
        flip=flip,
        flip_map=flip_map,
        warnings=tuple(warnings),
        notes=tuple(said.notes),
    )


def _printable(entry: Entry) -> Entry:
    """The entry with its displayed and stored texts made printable; its path is unchanged."""
    return dataclasses.replace(
        entry,
        video_id=printable(entry.video_id),
        group=printable(entry.group),
        line=printable(entry.line),
    )


def _refuse_duplicates(splits: dict[str, list[Entry]]) -> None:
    first: dict[tuple[str, str], Entry] = {}
    repeated: list[str] = []
    for entries in splits.values():
        for entry in entries:
            for kind, value in (("video", entry.video_id), ("path", entry.path)):
                earlier = first.setdefault((kind, value), entry)
                if earlier is not entry:
                    repeated.append(
                        f"{entry.line}: {kind} {value!r} is already listed at {earlier.line}"
                    )
                    break
    if repeated:
        more = f" ({len(repeated)} such lines)" if len(repeated) > 1 else ""
        raise UserError(f"{repeated[0]}{more}. List each video only once, in one split.")


def _hold_out(
    splits: dict[str, list[Entry]], val_fraction: float, seed: int
) -> dict[str, list[Entry]]:
    if not 0 < val_fraction < 1:
        raise UserError(f"--val_fraction {number(val_fraction)}: must be between 0 and 1.")
    if set(splits) != {"train"}:
        raise UserError(
            f"--val_fraction: the annotations already have the splits {', '.join(splits)}; "
            "omit the option, or give annotations with only the split train."
        )
    train, val = hold_out(splits["train"], val_fraction, seed)
    if not train or not val:
        raise UserError(
            f"--val_fraction {number(val_fraction)}: the {counted(len(splits['train']), 'video')} have too few "
            "groups to fill both train and val. Give more groups, or another fraction."
        )
    return {"train": train, "val": val}


def _missing_classes(classes: tuple[str, ...], splits: dict[str, list[Entry]]) -> list[str]:
    """A warning for each split that has no videos of some class. Often a label is misspelt."""
    warnings = []
    for name, entries in splits.items():
        counts = Counter(entry.label for entry in entries)
        absent = [class_name for label, class_name in enumerate(classes) if not counts[label]]
        if absent:
            shown = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            warnings.append(
                f"{len(absent)} of {counted(len(classes), 'class')} {have(len(absent))} no {name} video: {shown}"
            )
    return warnings
