"""Find listed videos, also with another suffix, as frame folders, in other letter case or in a subfolder.

Each folder is listed once and no file is opened: a folder with very many files costs one listing
instead of a look-up for each name.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Container, Iterable

from stm.data.annotations.common import VIDEO_EXTENSIONS, is_folder, is_hidden, join
from stm.data.annotations.texts import printable, warn
from stm.plural import counted
from stm.storage import is_url

_MOST_SUBFOLDERS = 64
"""Folders with more subfolders than this usually hold frame folders, so only the first ones are searched."""


class _Folder:
    """The names in a folder, and its videos and folders by stem."""

    def __init__(self, path: str) -> None:
        self.is_folder: dict[str, bool] = {}
        self.is_listed = True
        try:
            with os.scandir(path) as items:
                self.is_folder = {item.name: is_folder(item) for item in items}
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            self.is_listed = False
            warn(
                f"{path}: cannot list this folder ({error.strerror}): its videos are assumed to be as listed"
            )
        self.by_stem: dict[str, str] = {}
        self.by_folded: dict[str, str] = {}
        # Videos come last, so they are preferred: frames beside a video were extracted from it.
        for name in sorted(self.is_folder, key=lambda name: (not self.is_folder[name], name)):
            stem, extension = os.path.splitext(name)
            if self.is_folder[name]:
                stem = name
            elif extension.lower() not in VIDEO_EXTENSIONS:
                continue
            self.by_stem[stem] = self.by_folded[_folded(stem)] = name


class Media:
    """Finds videos by their names in lists."""

    def __init__(self) -> None:
        self._folders: dict[str, _Folder] = {}
        self._by_case: list[tuple[str, str]] = []
        self._num_subfolders: dict[str, int] = {}
        """Of the folders that have too many to search them all."""
        self._missed: list[str] = []

    def exists(self, path: str) -> bool:
        """Return whether a file or folder with exactly this absolute path exists."""
        folder, name = os.path.split(os.path.normpath(path))
        here = self._folder(folder)
        return name in here.is_folder if here.is_listed else os.path.lexists(path)

    def find(self, folder: str, name: str, *, exact: bool = True) -> str | None:
        """Return the absolute path of the video `name` (with slashes) in `folder`, or None.

        It is a file of this name, else one with another video suffix, else a (frame) folder of this
        name, else one of these in other letter case. With exact=False, a video `name`.mp4 is
        preferred to a folder `name`, because frames beside a video were extracted from it.
        """
        place = os.path.normpath(os.path.join(os.path.abspath(folder), name))
        if exact and self.exists(place):
            return place
        base = os.path.abspath(folder)
        inner = [part for part in name.split("/") if part not in ("", ".")]
        if not inner or ".." in inner or os.path.isabs(name):
            base, last = os.path.split(place)
            inner = [last]
        blind = False
        for part in inner[:-1]:
            here = self._folder(base)
            if not here.is_folder.get(part):
                other = here.by_folded.get(_folded(part))
                if other is None or not here.is_folder[other]:
                    return None
                part, blind = other, True
            base = os.path.join(base, part)
        here = self._folder(base)
        wanted = _stem(inner[-1])
        found = here.by_stem.get(wanted)
        if found is None and inner[-1] in here.is_folder:
            found = inner[-1]
        if found is None:
            found, blind = here.by_folded.get(_folded(wanted)), True
        if found is None:
            return None
        path = os.path.join(base, found)
        if blind:
            self._by_case.append((name, path))
        return path

    def subfolders(self, folder: str, but: Container[str] = ()) -> list[str]:
        """Return the absolute paths of the folders in `folder`, sorted: at most `_MOST_SUBFOLDERS`.

        Those with a name in `but` are left out.
        """
        base = os.path.abspath(folder)
        here = self._folder(base).is_folder
        found = sorted(
            name
            for name, is_one in here.items()
            if is_one and not is_hidden(name) and name not in but
        )
        if len(found) > _MOST_SUBFOLDERS:
            self._num_subfolders[base] = len(found)
        return [os.path.join(base, name) for name in found[:_MOST_SUBFOLDERS]]

    def miss(self, name: str) -> None:
        """Remember that a listed video was not found, for `tell`."""
        self._missed.append(name)

    def tell_of_missed(self) -> None:
        """Warn if videos that were not found may be in folders that were not searched."""
        for folder, number in self._num_subfolders.items() if self._missed else ():
            warn(
                f"not found: {counted(len(self._missed), 'listed video')}, such as {printable(self._missed[0])}, and "
                f"only the first {_MOST_SUBFOLDERS} of the {number} folders in {folder} were searched. Give the folder "
                "of the videos as --root, or list the videos with their folders"
            )

    def tell(self) -> None:
        """Warn once of videos that may be in folders that were not searched, and of other letter case on disk."""
        self.tell_of_missed()
        if self._by_case:
            name, path = self._by_case[0]
            warn(
                f"the letter case on disk differs for {counted(len(self._by_case), 'listed video')}, such as "
                f"{name!r}, which is read from {printable(path)}"
            )

    def _folder(self, path: str) -> _Folder:
        if path not in self._folders:
            self._folders[path] = _Folder(path)
        return self._folders[path]


def find_media(root: str, names: Iterable[str], extension: str) -> dict[str, str]:
    """Return the place of each named video: `name` -> absolute path of its frame folder or video file.

    Videos are looked for directly under `root`, or else in the subfolder that has most of them. A
    video that is not found gets `root/name` + `extension`, and indexing reports it; a warning tells
    if there were too many subfolders to search them all.
    """
    wanted = list(dict.fromkeys(names))
    if is_url(root):
        return {name: join(root, name + extension) for name in wanted}
    media = Media()
    found = _found(media, root, wanted)
    if not found:
        candidates = [_found(media, folder, wanted) for folder in media.subfolders(root)]
        found = max(candidates, key=len, default={})
        for name in wanted:
            if name not in found:
                media.miss(name)
        media.tell_of_missed()
    return {name: found.get(name) or join(root, name + extension) for name in wanted}


def _found(media: Media, folder: str, names: list[str]) -> dict[str, str]:
    return {name: path for name in names if (path := media.find(folder, name, exact=False))}


def _stem(name: str) -> str:
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in VIDEO_EXTENSIONS else name


def _folded(name: str) -> str:
    """The name in one letter case and one Unicode normal form."""
    return unicodedata.normalize("NFC", name).casefold()
