"""Format `folder`: ROOT/class/video, or ROOT/train/class/video beside ROOT/val/class/video."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from stm.data.annotations.class_lists import look_alike
from stm.data.annotations.common import Annotations, Entry, is_folder
from stm.data.annotations.texts import is_utf8, note, printable, warn
from stm.data.annotations.tree import (
    MODALITIES,
    RGB_FOLDERS,
    VIDEO_FOLDERS,
    is_frame_folder,
    is_video_file,
    list_folder,
    videos_below,
    with_those_above,
)
from stm.data.annotations.words import splits_of_folders
from stm.errors import UserError
from stm.plural import counted
from stm.storage import is_url


def read(
    root: str, annotations: str | None, split: int, split_folders: str = "auto"
) -> Annotations:
    """Read every video file and every folder of images below a class folder as a video of that class.

    Classes are the folders' names, sorted. Links are followed, each folder once. A folder that this
    user may not list is an entry, so that indexing reports it. The group of a video is the folder
    between it and its class folder, if any (ROOT/class/source/video). Files that are neither videos
    nor images, and videos outside class folders, are left out with a warning; hidden and system files
    (`common.is_hidden`) are left out without one.

    split_folders: `yes` if the folders of root are splits, `no` if they are classes, `auto` to decide
        by their names and contents.

    Raises UserError if that is unclear, or if there is no class.
    """
    del split
    if annotations is not None:
        raise UserError(
            "--annotations: the format `folder` does not use it; the folders are the labels."
        )
    if is_url(root):
        raise UserError(
            f"--root {root}: the format `folder` lists a local or mounted folder; for a URL write "
            "a CSV of `path,label` and use --format list."
        )
    base = os.path.abspath(root)
    try:
        os.listdir(base)
    except OSError as error:
        raise UserError(
            f"{base}: cannot list this folder ({error.strerror}). Give this user permission, or "
            "choose another --root."
        ) from error
    by_split = _split_folders(base, split_folders)
    class_folders = {
        (name, class_name): path
        for name, folder in by_split.items()
        for class_name, path in _subfolders(folder)
    }
    ignored: Counter[str] = Counter()
    outside = with_those_above(base).union(*map(with_those_above, by_split.values()))
    found = {
        key: sorted(videos_below(path, set(outside), ignored))
        for key, path in class_folders.items()
    }
    _check_classes(base, class_folders, [key for key, videos in found.items() if videos])
    classes = tuple(sorted({class_name for (_, class_name), videos in found.items() if videos}))
    empty = sorted({class_name for _, class_name in class_folders} - set(classes))
    if empty and classes:
        shown = ", ".join(map(printable, empty[:5])) + (", ..." if len(empty) > 5 else "")
        warn(
            f"found no videos in {counted(len(empty), 'folder')} under {base}, not used as classes: {shown}"
        )
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[Entry]] = {name: [] for name in by_split}
    links = _Links()
    for (name, class_name), videos in found.items():
        path = class_folders[name, class_name]
        for video, real in videos:
            inner = os.path.dirname(os.path.relpath(video, path)) if video != path else ""
            splits[name].append(
                Entry(
                    video_id=Path(os.path.relpath(video, base)).as_posix(),
                    path=video,
                    label=labels[class_name],
                    group=f"{class_name}/{inner}" if inner else "",
                    line=video,
                )
            )
            links.add(real, name, class_name, video)
    _check_splits(by_split, splits, ignored)
    for folder in dict.fromkeys([base, *by_split.values()]):
        _warn_of_strays(folder)
    grouped = next((e for entries in splits.values() for e in entries if e.group), None)
    if grouped is not None:
        group = grouped.group.removeprefix(classes[grouped.label] + "/")
        note(
            f"folders in class folders are read as groups: {printable(grouped.path)} is of class "
            f"{classes[grouped.label]!r}, group {printable(group)!r}"
        )
    if ignored:
        kinds = _shown(ignored)
        warn(f"ignored under {base}, because they are not videos: {kinds}")
    links.warn()
    look_alike(classes)
    return Annotations(classes, splits, os.path.basename(base))


def _shown(ignored: Counter[str]) -> str:
    return ", ".join(f"{count} {printable(kind)}" for kind, count in ignored.most_common(5))


class _Links:
    """Collects videos that links put into several classes or splits."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str, str]] = {}
        self._found: dict[str, list[str]] = {"classes": [], "splits": []}

    def add(self, real: str, split: str, class_name: str, path: str) -> None:
        """Add a video; ``real`` is its path without links."""
        first = self._first.setdefault(real, (split, class_name, path))
        for kind, ours, earlier in (
            ("classes", class_name, first[1]),
            ("splits", split, first[0]),
        ):
            if ours != earlier:
                self._found[kind].append(f"{printable(first[2])} and {printable(path)}")

    def warn(self) -> None:
        means = {
            "classes": "training sees both labels",
            "splits": "accuracy on the second will be too high",
        }
        for kind, found in self._found.items():
            if found:
                warn(
                    f"links put {counted(len(found), 'video')} into two {kind}, such as {found[0]}: "
                    f"{means[kind]}"
                )


def _check_classes(
    base: str, folders: dict[tuple[str, str], str], used: list[tuple[str, str]]
) -> None:
    """Raise UserError if no folder is a class. ``folders``: of each (split, class). ``used``: with videos."""
    if not folders:
        hint = ""
        for name in ("metadata.csv", "metadata.jsonl", "train.csv"):
            if os.path.isfile(os.path.join(base, name)):
                hint = f" There is {name}: use --format list."
        raise UserError(
            f"{base}: it contains no class folder. Expected {base}/CLASS/video.mp4.{hint}"
        )
    names = sorted({name for _, name in used})
    for name in names:
        if not is_utf8(name):
            raise UserError(
                f"{base}: the name of the class folder {printable(name)} is not UTF-8. Rename it."
            )
    kinds = {name.lower() for name in names}
    telling = [kind for kind in kinds if _is_rgb_or_flow(kind) or kind in VIDEO_FOLDERS]
    if len(kinds) > 1 and kinds <= MODALITIES | VIDEO_FOLDERS and telling:
        likely = next((name for name in names if name.lower() in RGB_FOLDERS), names[0])
        raise UserError(
            f"{base}: {', '.join(names)} are kinds of images or videos, not classes. Give the one "
            f"to learn from as --root, such as {os.path.join(base, likely)}."
        )
    if len(used) == 1:
        # ROOT/dataset/CLASS/video would be one class, with the classes as its groups.
        inner = folders[used[0]]
        while not _holds_videos(inner) and len(_subfolders(inner)) == 1:
            ((_, inner),) = _subfolders(inner)
        if not _holds_videos(inner) and len(_subfolders(inner)) > 1:
            raise UserError(
                f"{base}: {names[0]!r} would be its only class. The classes seem to be in "
                f"{inner}: give that as --root."
            )


def _check_splits(
    folders: dict[str, str], splits: dict[str, list[Entry]], ignored: Counter[str]
) -> None:
    for name, entries in splits.items():
        if not entries:
            of_images = next((p for _, p in _subfolders(folders[name]) if is_frame_folder(p)), None)
            hint = f" There are {_shown(ignored)}." if ignored else ""
            if of_images is not None:
                hint = f" There are images in {of_images} itself: those of each video need their own folder."
            raise UserError(
                f"{folders[name]}: its class folders contain no videos. Expected CLASS/video.mp4, or "
                f"CLASS/video/00001.jpg.{hint}"
            )


def _warn_of_strays(folder: str) -> None:
    strays = [item.path for item in list_folder(folder) or [] if is_video_file(item)]
    if strays:
        warn(
            f"left out {counted(len(strays), 'video')} in {folder} itself and in no class folder, "
            f"such as {printable(min(strays))}"
        )


def _is_rgb_or_flow(name: str) -> bool:
    return name in RGB_FOLDERS or "flow" in name


def _split_folders(base: str, wanted: str) -> dict[str, str]:
    """Split name -> folder; only `train` if ROOT itself contains the classes."""
    here = dict(_subfolders(base))
    named = splits_of_folders(here)
    if wanted == "no" or (wanted == "auto" and not named):
        return {"train": base}
    with_classes = [name for name in named if not _holds_videos(here[name])]
    others = [
        name
        for name in here
        if name not in named and next(videos_below(here[name], set(), Counter()), None)
    ]
    shown = ", ".join(here)
    if wanted == "auto":
        if others and not with_classes:
            return {"train": base}  # a class may be called "train"
        choose = (
            "If the folders are classes, add --split_folders no; if they are splits, each needs a "
            "folder for each class"
        )
        direct = [name for name in named if name not in with_classes]
        direct = [name for name in direct if not _holds_classes(here[name])]
        if not others and direct:
            if {named[name] for name in direct} != {"test"} or "train" not in named.values():
                raise UserError(
                    f"{base}: the folders {shown} have names of splits, but there are videos in "
                    f"{direct[0]} itself, not in class folders. {choose}."
                )
            for name in direct:
                warn(f"{here[name]}: left out, because its videos are not in class folders")
                del named[name]
        inner = {name: {folder for folder, _ in _subfolders(here[name])} for name in named}
        if not others and len(named) > 1 and not _overlap(list(inner.values())):
            raise UserError(
                f"{base}: the folders {shown} have names of splits, but no folder name occurs in two "
                f"of them, as a class would. {choose}. To read them as splits anyway, add "
                "--split_folders yes."
            )
    elif not named:
        raise UserError(
            f"{base}: no folder in it has the name of a split (train, val, test). Its folders are {shown}."
        )
    if others:
        raise UserError(
            f"{os.path.join(base, others[0])}: beside {', '.join(named)} only val and test are "
            f"expected, not {others[0]!r}. Move it away, give the folder of the classes as "
            "--root, or add --split_folders no if all of them are classes."
        )
    splits: dict[str, str] = {}
    for folder_name, name in named.items():
        if name in splits:
            raise UserError(
                f"{splits[name]} and {here[folder_name]} are both the split {name!r}; keep one."
            )
        splits[name] = here[folder_name]
    if any(name != name.lower() or name not in ("train", "val", "test") for name in named):
        told = ", ".join(f"{folder} is {name}" for folder, name in named.items())
        note(f"{base}: its folders are read as splits: {told}")
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def _overlap(sets: list[set[str]]) -> bool:
    return any(a & b for k, a in enumerate(sets) for b in sets[k + 1 :])


def _subfolders(folder: str) -> list[tuple[str, str]]:
    return sorted((item.name, item.path) for item in list_folder(folder) or [] if is_folder(item))


def _holds_videos(folder: str) -> bool:
    """Whether a folder directly contains videos or frame folders, as a class folder does."""
    return any(map(is_video_file, list_folder(folder) or [])) or any(
        is_frame_folder(path) for _, path in _subfolders(folder)[:8]
    )


def _holds_classes(folder: str) -> bool:
    """Whether folders in it contain videos, as class folders do."""
    return any(_holds_videos(path) for _, path in _subfolders(folder))
