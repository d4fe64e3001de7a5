"""Format `folder`: ROOT/class/video, or ROOT/train/class/video beside ROOT/val/class/video."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from stm.data.annotations.class_lists import look_alike
from stm.data.annotations.common import VIDEO_EXTENSIONS, Annotations, Entry, is_url
from stm.data.annotations.texts import is_utf8, note, printable, warn
from stm.data.annotations.words import split_of_folder
from stm.data.decode.frame_names import is_image_name
from stm.errors import UserError

_RGB_FOLDERS = frozenset({"rgb", "img", "imgs", "images", "frames", "rawframes", "color"})
_MODALITIES = _RGB_FOLDERS | {
    *("flow", "flow_x", "flow_y", "flow_i", "opticalflow", "optical_flow", "tvl1", "u", "v"),
    *("x", "y", "depth", "ir", "infrared", "thermal", "mask", "masks", "pose", "skeleton"),
}


def read(
    root: str, annotations: str | None, split: int, split_folders: str = "auto"
) -> Annotations:
    """Every video file and every folder of images below a class folder is a video of that class.

    Classes are the folders' names, sorted. Links are followed, each folder once. A video below a
    further folder (ROOT/class/source/video) has that folder as its group. Files that are neither
    video nor image are counted in a warning.

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
    by_split = _split_folders(base, split_folders)
    class_folders = {
        (name, class_name): path
        for name, folder in by_split.items()
        for class_name, path in _subfolders(folder)
    }
    classes = tuple(sorted({class_name for _, class_name in class_folders}))
    _check_classes(base, classes, list(class_folders.values()))
    labels = {name: label for label, name in enumerate(classes)}
    ignored: Counter[str] = Counter()
    splits: dict[str, list[Entry]] = {name: [] for name in by_split}
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
    if ignored:
        kinds = ", ".join(f"{count} {printable(kind)}" for kind, count in ignored.most_common(5))
        warn(f"{ignored.total()} files under {base} are no videos, ignored: {kinds}")
    look_alike(classes)
    return Annotations(classes, splits, os.path.basename(base))


def _check_classes(base: str, classes: tuple[str, ...], folders: list[str]) -> None:
    if not classes:
        hint = ""
        for name in ("metadata.csv", "metadata.jsonl", "train.csv"):
            if os.path.isfile(os.path.join(base, name)):
                hint = f" There is {name}: use --format list."
        raise UserError(f"{base}: no class folder in it. Expected {base}/CLASS/video.mp4.{hint}")
    for name in classes:
        if not is_utf8(name):
            raise UserError(
                f"{base}: the name of the class folder {printable(name)} is not UTF-8. Rename it."
            )
    kinds = {name.lower() for name in classes}
    if len(kinds) > 1 and kinds <= _MODALITIES and any(map(_is_rgb_or_flow, kinds)):
        likely = next((name for name in classes if name.lower() in _RGB_FOLDERS), classes[0])
        raise UserError(
            f"{base}: {', '.join(classes)} are kinds of images, no classes. Name the one to learn "
            f"from as --root, such as {os.path.join(base, likely)}."
        )
    if len(folders) == 1:
        # ROOT/dataset/CLASS/video: one class, and the classes themselves taken for groups.
        inner = folders[0]
        while not _holds_videos(inner) and len(_subfolders(inner)) == 1:
            ((_, inner),) = _subfolders(inner)
        if not _holds_videos(inner) and len(_subfolders(inner)) > 1:
            raise UserError(
                f"{base}: {classes[0]!r} would be its only class. The classes seem to lie in "
                f"{inner}: name that as --root."
            )


def _is_rgb_or_flow(name: str) -> bool:
    return name in _RGB_FOLDERS or "flow" in name


def _split_folders(base: str, wanted: str) -> dict[str, str]:
    """Split name -> folder; a lone `train` where ROOT holds the classes themselves."""
    here = dict(_subfolders(base))
    named = {name: split for name in here if (split := split_of_folder(name))}
    if wanted == "no" or (wanted == "auto" and not named):
        return {"train": base}
    with_classes = [name for name in named if not _holds_videos(here[name])]
    others = [name for name in here if name not in named and _holds_any_video(here[name])]
    shown = ", ".join(here)
    if wanted == "auto":
        if others and not with_classes:
            return {"train": base}  # a class may be called "train"
        choose = (
            "If the folders are classes, add --split_folders no; if they are splits, each holds a "
            "folder for each class"
        )
        if not others and len(with_classes) < len(named):
            direct = next(name for name in named if name not in with_classes)
            raise UserError(
                f"{base}: the folders {shown} are called like splits, but videos lie in {direct} "
                f"itself, not in class folders. {choose}."
            )
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
    with os.scandir(folder) as items:
        return sorted(
            (item.name, item.path)
            for item in items
            if item.is_dir() and not item.name.startswith((".", "__MACOSX"))
        )


def _holds_videos(folder: str) -> bool:
    """Whether a folder holds videos or frame folders directly, as a class does."""
    with os.scandir(folder) as items:
        for item in items:
            if _is_video_file(item):
                return True
    return any(_is_frame_folder(path) for _, path in _subfolders(folder)[:8])


def _holds_any_video(folder: str) -> bool:
    return next(_videos(folder, set(), Counter()), None) is not None


def _is_video_file(item: os.DirEntry[str]) -> bool:
    """Also a link to nowhere, which indexing reports; not a folder called `v_x.avi`."""
    return os.path.splitext(item.name)[1].lower() in VIDEO_EXTENSIONS and not item.is_dir()


def _is_frame_folder(folder: str) -> bool:
    """Whether a folder holds images and no video; beside videos they are thumbnails."""
    with os.scandir(folder) as items:
        names = [item for item in items if not item.name.startswith(".")]
    return any(is_image_name(item.name) for item in names) and not any(map(_is_video_file, names))


def _videos(folder: str, seen: set[str], ignored: Counter[str]) -> Iterator[str]:
    """Paths of the videos and frame folders below `folder`; `seen` breaks loops of links."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    with os.scandir(folder) as items:
        entries = [item for item in items if not item.name.startswith(".")]
    folders = {item.name.lower() for item in entries if item.is_dir()}
    has_rgb = bool(folders & _RGB_FOLDERS)
    for item in entries:
        if _is_video_file(item):
            yield item.path
        elif item.is_dir():
            if has_rgb and item.name.lower() in _MODALITIES - _RGB_FOLDERS:
                ignored[f"folders {item.name} beside those of RGB frames"] += 1
            elif _is_frame_folder(item.path):
                yield item.path
            else:
                yield from _videos(item.path, seen, ignored)
        else:
            ignored[os.path.splitext(item.name)[1] or "without an extension"] += 1
