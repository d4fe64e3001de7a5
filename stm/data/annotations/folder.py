"""Format `folder`: ROOT/class/video, or ROOT/train/class/video beside ROOT/val/class/video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stm.data.annotations.common import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Annotations,
    Entry,
    is_url,
)
from stm.errors import UserError

_SPLITS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def read(root: str, annotations: str | None, split: int) -> Annotations:
    """Every video file and every folder of images below a class folder is a video of that class.

    Classes are the folders' names, sorted. Links are followed, each folder once. A video below a
    further folder (ROOT/class/source/video) has that folder as its group. Files that are neither
    video nor image are counted in a warning.
    """
    del split
    if annotations is not None:
        raise UserError("--annotations: the format `folder` has none; the folders are the labels.")
    if is_url(root):
        raise UserError(
            f"--root {root}: the format `folder` lists a local or mounted folder; for a URL write "
            "a CSV of `path,label` and use --format csv."
        )
    base = os.path.abspath(root)
    split_folders = _split_folders(base)
    class_folders = {
        (name, class_name): path
        for name, folder in split_folders.items()
        for class_name, path in _subfolders(folder)
    }
    classes = tuple(sorted({class_name for _, class_name in class_folders}))
    if not classes:
        raise UserError(f"{base}: no class folder in it. Expected {base}/CLASS/video.mp4.")
    labels = {name: label for label, name in enumerate(classes)}
    ignored: Counter[str] = Counter()
    splits: dict[str, list[Entry]] = {name: [] for name in split_folders}
    for (name, class_name), path in class_folders.items():
        found = sorted(_videos(path, set(), ignored))
        for video in found:
            inner = os.path.dirname(os.path.relpath(video, path))
            splits[name].append(
                Entry(
                    video_id=Path(os.path.relpath(video, base)).as_posix(),
                    path=video,
                    label=labels[class_name],
                    group=f"{class_name}/{inner}" if inner else "",
                    line=video,
                )
            )
    warnings = []
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common(5))
        warnings.append(f"{ignored.total()} files under {base} are no videos, ignored: {kinds}")
    return Annotations(classes, splits, os.path.basename(base), warnings=tuple(warnings))


def _split_folders(base: str) -> dict[str, str]:
    """Split name -> folder; a lone `train` where ROOT holds the classes themselves."""
    here = dict(_subfolders(base))
    train = here.get("train")
    # A class may be called "train": then its videos lie in it, one level higher than in a split.
    if train is None or _holds_videos(train):
        return {"train": base}
    splits: dict[str, str] = {}
    for folder_name, path in here.items():
        name = _SPLITS.get(folder_name)
        if name is None:
            raise UserError(
                f"{path}: beside {train} only val and test are expected, not {folder_name!r}. "
                "Move it away, or name the folder of the classes as --root."
            )
        if name in splits:
            raise UserError(f"{splits[name]} and {path} are both the split {name!r}; keep one.")
        splits[name] = path
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def _subfolders(folder: str) -> list[tuple[str, str]]:
    with os.scandir(folder) as items:
        return sorted(
            (item.name, item.path)
            for item in items
            if item.is_dir() and not item.name.startswith(".")
        )


def _holds_videos(folder: str) -> bool:
    """Whether a folder holds videos or frame folders directly, as a class does."""
    with os.scandir(folder) as items:
        for item in items:
            if os.path.splitext(item.name)[1].lower() in VIDEO_EXTENSIONS and item.is_file():
                return True
    return any(_is_frame_folder(path) for _, path in _subfolders(folder)[:8])


def _is_frame_folder(folder: str) -> bool:
    with os.scandir(folder) as items:
        return any(os.path.splitext(item.name)[1].lower() in IMAGE_EXTENSIONS for item in items)


def _videos(folder: str, seen: set[str], ignored: Counter[str]) -> Iterator[str]:
    """Paths of the videos and frame folders below `folder`; `seen` breaks loops of links."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as items:
        entries = [item for item in items if not item.name.startswith(".")]
    for item in entries:
        if os.path.splitext(item.name)[1].lower() in VIDEO_EXTENSIONS:
            yield item.path  # also a link to nowhere: indexing reports it
        elif item.is_dir():
            if _is_frame_folder(item.path):
                yield item.path
            else:
                yield from _videos(item.path, seen, ignored)
        else:
            ignored[os.path.splitext(item.name)[1] or "without an extension"] += 1
