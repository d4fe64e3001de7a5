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
    """Every video file and every folder of images below a class folder is a video of that class.

    Classes are the folders' names, sorted. Links are followed, each folder once; a folder that this
    user may not list is an entry itself, for indexing to report. A video below a further folder
    (ROOT/class/source/video) has that folder as its group. Left out, with a warning, are files that
    are neither video nor image, and videos in no class folder; without one, what is hidden and what
    systems make (`common.is_hidden`).

    split_folders: whether the folders of root are splits (`yes`), classes (`no`), or whichever
        their names and contents say (`auto`).

    Raises UserError where that is not clear, or no class is found.
    """
    del split
    if annotations is not None:
        raise UserError("--annotations: the format `folder` has none; the folders are the labels.")
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
            f"{base}: cannot list it ({error.strerror}). Give this user the right to, or name "
            "another --root."
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
            f"{counted(len(empty), 'folder')} under {base} without a video, not used as classes: {shown}"
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
            f"folders in class folders are taken for groups: {printable(grouped.path)} is of class "
            f"{classes[grouped.label]!r}, group {printable(group)!r}"
        )
    if ignored:
        kinds = _shown(ignored)
        warn(f"{ignored.total()} files under {base} are no videos, ignored: {kinds}")
    links.warn()
    look_alike(classes)
    return Annotations(classes, splits, os.path.basename(base))


def _shown(ignored: Counter[str]) -> str:
    return ", ".join(f"{count} {printable(kind)}" for kind, count in ignored.most_common(5))


class _Links:
    """Videos that links put into several places."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, str, str]] = {}
        self._found: dict[str, list[str]] = {"classes": [], "splits": []}

    def add(self, real: str, split: str, class_name: str, path: str) -> None:
        """real: where the video lies without links."""
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
                    f"{counted(len(found), 'video')} in two {kind} through links, such as {found[0]}: "
                    f"{means[kind]}"
                )


def _check_classes(
    base: str, folders: dict[tuple[str, str], str], used: list[tuple[str, str]]
) -> None:
    """folders: of each (split, class); used: those in which there are videos."""
    if not folders:
        hint = ""
        for name in ("metadata.csv", "metadata.jsonl", "train.csv"):
            if os.path.isfile(os.path.join(base, name)):
                hint = f" There is {name}: use --format list."
        raise UserError(f"{base}: no class folder in it. Expected {base}/CLASS/video.mp4.{hint}")
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
            f"{base}: {', '.join(names)} are kinds of images or videos, no classes. Name the one "
            f"to learn from as --root, such as {os.path.join(base, likely)}."
        )
    if len(used) == 1:
        # ROOT/dataset/CLASS/video: one class, and the classes themselves taken for groups.
        inner = folders[used[0]]
        while not _holds_videos(inner) and len(_subfolders(inner)) == 1:
            ((_, inner),) = _subfolders(inner)
        if not _holds_videos(inner) and len(_subfolders(inner)) > 1:
            raise UserError(
                f"{base}: {names[0]!r} would be its only class. The classes seem to lie in "
                f"{inner}: name that as --root."
            )


def _check_splits(
    folders: dict[str, str], splits: dict[str, list[Entry]], ignored: Counter[str]
) -> None:
    for name, entries in splits.items():
        if not entries:
            of_images = next((p for _, p in _subfolders(folders[name]) if is_frame_folder(p)), None)
            hint = f" There are {_shown(ignored)}." if ignored else ""
            if of_images is not None:
                hint = (
                    f" Images lie in {of_images} itself: those of one video need their own folder."
                )
            raise UserError(
                f"{folders[name]}: no video in its class folders. Expected CLASS/video.mp4, or "
                f"CLASS/video/00001.jpg.{hint}"
            )


def _warn_of_strays(folder: str) -> None:
    strays = [item.path for item in list_folder(folder) or [] if is_video_file(item)]
    if strays:
        warn(
            f"{counted(len(strays), 'video')} in {folder} itself and in no class folder, left out, "
            f"such as {printable(min(strays))}"
        )


def _is_rgb_or_flow(name: str) -> bool:
    return name in RGB_FOLDERS or "flow" in name


def _split_folders(base: str, wanted: str) -> dict[str, str]:
    """Split name -> folder; a lone `train` where ROOT holds the classes themselves."""
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
            "If the folders are classes, add --split_folders no; if they are splits, each holds a "
            "folder for each class"
        )
        direct = [name for name in named if name not in with_classes]
        direct = [name for name in direct if not _holds_classes(here[name])]
        if not others and direct:
            if {named[name] for name in direct} != {"test"} or "train" not in named.values():
                raise UserError(
                    f"{base}: the folders {shown} are called like splits, but videos lie in "
                    f"{direct[0]} itself, not in class folders. {choose}."
                )
            for name in direct:
                warn(f"{here[name]}: left out, since its videos lie in no class folder")
                del named[name]
        inner = {name: {folder for folder, _ in _subfolders(here[name])} for name in named}
        if not others and len(named) > 1 and not _overlap(list(inner.values())):
            raise UserError(
                f"{base}: the folders {shown} are called like splits, but no folder in one has the "
                f"name of a folder in another, as classes would. {choose}, and "
                "--split_folders yes takes them so."
            )
    elif not named:
        raise UserError(
            f"{base}: no folder in it is called like a split (train, val, test), but {shown}."
        )
    if others:
        raise UserError(
            f"{os.path.join(base, others[0])}: beside {', '.join(named)} only val and test are "
            f"expected, not {others[0]!r}. Move it away, or name the folder of the classes as "
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
        note(f"{base}: its folders are splits: {told}")
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def _overlap(sets: list[set[str]]) -> bool:
    return any(a & b for k, a in enumerate(sets) for b in sets[k + 1 :])


def _subfolders(folder: str) -> list[tuple[str, str]]:
    return sorted((item.name, item.path) for item in list_folder(folder) or [] if is_folder(item))


def _holds_videos(folder: str) -> bool:
    """Whether a folder holds videos or frame folders directly, as a class does."""
    return any(map(is_video_file, list_folder(folder) or [])) or any(
        is_frame_folder(path) for _, path in _subfolders(folder)[:8]
    )


def _holds_classes(folder: str) -> bool:
    """Whether folders in it hold videos, as those of classes do."""
    return any(_holds_videos(path) for _, path in _subfolders(folder))
