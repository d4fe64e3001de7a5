"""Find the videos of a list under the root or beside the list, with paths in any usual spelling."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote

from stm.data.annotations.common import VIDEO_EXTENSIONS, join
from stm.data.annotations.media import Media
from stm.data.annotations.tables import Row
from stm.data.annotations.texts import bad_line, note, printable
from stm.data.annotations.words import split_of_folder, splits_in
from stm.errors import UserError
from stm.plural import counted
from stm.storage import is_url

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


class Places:
    """Finds the videos of a list under the root, or beside the list."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._url = is_url(root)
        self._media = Media()
        self._learned: dict[Path, list[str]] = {}
        self._moved: dict[Path, tuple[str, str]] = {}
        self._told: dict[str, tuple[int, str]] = {}

    def looks_for(self, file: Path) -> Callable[[str], bool]:
        """Return a function that tells whether a cell of a list is a video, by its suffix or because it exists."""

        def is_video(cell: str) -> bool:
            if os.path.splitext(cell)[1].lower() in VIDEO_EXTENSIONS or is_url(cell):
                return True
            return bool(cell.strip()) and self._find(cell, file) is not None

        return is_video

    def is_exactly_there(self, row: Row) -> bool:
        """Return whether a row's video exists exactly as it is written."""
        path = _slashes(row.path).rstrip("/")
        bases = self._bases(row.file)
        return any(self._media.exists(os.path.join(base, path)) for base in bases)

    def learn(self, rows: list[Row]) -> None:
        """If none of a file's videos is found, find the folder below the root that has them. For absolute
        paths that do not exist, find the part of them that exists under the root."""
        by_file: dict[Path, list[Row]] = {}
        for row in rows:
            by_file.setdefault(row.file, []).append(row)
        for file, listed in () if self._url else by_file.items():
            local = [row for row in listed if not is_url(row.path)]
            absolute = [row for row in local if row.path.startswith("/")]
            relative = [row for row in local if not row.path.startswith("/")]
            for rows, learn in ((absolute, self._learn_move), (relative, self._learn_folder)):
                sample = rows[:: max(1, len(rows) // 50)][:50]
                if sample and not any(self._find(row.path, file) for row in sample):
                    learn(file, sample)

    def _learn_folder(self, file: Path, sample: list[Row]) -> None:
        below = self._media.subfolders(self._root)
        paths = [_slashes(row.path) for row in sample]
        hits = {
            folder: {path for path in paths if self._media.find(folder, path)} for folder in below
        }
        found = [folder for folder in below if hits[folder]]
        if len(found) > 1 and sum(map(len, hits.values())) == len(set.union(*hits.values())):
            note(f"{file}: the listed videos are in several folders under {self._root}")
            self._learned[file] = below
            return

        def score(folder: str) -> tuple[int, int, bool]:
            exact = sum(self._media.exists(os.path.join(folder, path)) for path in hits[folder])
            name = split_of_folder(os.path.basename(folder))
            return len(hits[folder]), exact, name in splits_in(file.stem)

        best = [folder for folder in found if score(folder) == max(map(score, found))]
        if len(best) > 1:
            raise UserError(
                f"{file}: its videos may be those in {best[0]} or in {best[1]}. Give the folder as "
                "--root, or write the paths relative to the root."
            )
        if best:
            note(f"{file}: the listed videos are under {best[0]}")
            self._learned[file] = best

    def _learn_move(self, file: Path, sample: list[Row]) -> None:
        """Replace the common beginning of absolute paths, or as little of it as needed, with the root."""
        common = os.path.commonpath([os.path.dirname(row.path) for row in sample])
        parts = common.strip("/").split("/") if common != "/" else []
        for count in range(len(parts) + 1):
            old = "/" + "/".join(parts[:count])
            rests = [row.path.removeprefix(old).lstrip("/") for row in sample]
            if any(self._media.find(self._root, rest) for rest in rests):
                note(
                    f"{file}: its paths begin with {old}, which is read as {os.path.abspath(self._root)}"
                )
                self._moved[file] = (old.rstrip("/") + "/", os.path.abspath(self._root))
                return

    def name(self, row: Row) -> str:
        """Return a row's video id: its path, relative to the root and without `./` and the like."""
        path = row.path
        if is_url(path):
            return path
        if "\\" in path and (self._url or not self._media.exists(join(self._root, path))):
            path = _slashes(path)
        path = re.sub(r"^(\./)+", "", re.sub(r"(?<!^)/+$", "", path))
        own = self._learned.get(row.file, [])
        if len(own) == 1 and any(own != other for other in self._learned.values()):
            return f"{os.path.basename(own[0])}/{path}"  # train/1.mp4, val/1.mp4
        if row.file.stem == "metadata" and not self._url:
            inner = os.path.relpath(row.file.resolve().parent, os.path.realpath(self._root))
            if inner != "." and not inner.startswith(".."):
                return f"{inner}/{path}"
        return path

    def _bases(self, file: Path) -> list[str]:
        """The folders that a list's paths may be relative to: the root, the list's own and learned ones."""
        if self._url:
            return []
        bases = [os.path.abspath(self._root), str(file.resolve().parent)]
        if file.stem == "metadata":  # paths of Hugging Face are relative to the list's folder
            bases.reverse()
        return list(dict.fromkeys([*bases, *self._learned.get(file, [])]))

    def locate(self, row: Row) -> str:
        """Return the absolute path or URL of a row's video, even if it does not exist.

        Raises UserError for an absolute Windows path, or a path that matches several videos.
        """
        path = row.path
        if is_url(path):
            return path
        if _WINDOWS.match(path):
            problem = "an absolute Windows path"
            expected = "paths relative to --root, such as " + re.split(r"[\\/]", path)[-1]
            raise bad_line(row.file, row.number, row.text, problem, expected)
        found = self._find(path, row.file)
        if found is None:
            if "\\" in path:
                self._tell("backslashes are read as slashes", path)
                path = _slashes(path)
            self._media.miss(row.path)
            old, _ = self._moved.get(row.file, ("", ""))
            return join(self._root, path.removeprefix(old) if old else path)
        place, how = found
        for what in how:
            self._tell(what, row.path)
        return place

    def tell(self) -> None:
        """Note, once for each way, how paths were read other than as written."""
        for what, (count, example) in self._told.items():
            note(f"{counted(count, 'path')} such as {printable(example)}: {what}")
        self._media.tell()

    def _tell(self, what: str, path: str) -> None:
        count, example = self._told.get(what, (0, path))
        self._told[what] = (count + 1, example)

    def _find(self, path: str, file: Path) -> tuple[str, list[str]] | None:
        """(the path of the video, the changes that were needed to find it)"""
        bases = self._bases(file)
        old, new = self._moved.get(file, ("", ""))
        if old and path.startswith(old):
            path = os.path.join(new, path.removeprefix(old))
        for variant, how in self._variants(path):
            for exact in (True, False):
                for base in bases:
                    place = os.path.normpath(os.path.join(base, variant))
                    found = place if exact and self._media.exists(place) else None
                    if not exact:
                        found = self._media.find(base, variant)
                    if found:
                        self._refuse_second(file, base, variant, found)
                        changes = list(how)
                        if base != bases[0] and not os.path.isabs(variant):
                            changes.append(f"found in {base}")
                        if not exact and os.path.splitext(found)[1] != os.path.splitext(place)[1]:
                            changes.append("found with another suffix, or as a folder of frames")
                        return found, changes
        return None

    def _refuse_second(self, file: Path, base: str, path: str, found: str) -> None:
        """Raise UserError if several of the learned folders contain the video."""
        learned = self._learned.get(file, [])
        if len(learned) > 1 and base in learned:
            for other in learned[learned.index(base) + 1 :]:
                second = self._media.find(other, path)
                if second:
                    raise UserError(
                        f"{file}: {printable(path)} may be {printable(found)} or "
                        f"{printable(second)}. Write the path relative to the root."
                    )

    def _variants(self, path: str) -> Iterable[tuple[str, list[str]]]:
        yield path, []
        slashed, how = path, []
        if "\\" in path:
            slashed, how = _slashes(path), ["backslashes are read as slashes"]
            yield slashed, how
        last = os.path.basename(os.path.abspath(self._root))
        inner = re.sub(r"^(\./)+", "", slashed)
        if inner.startswith(f"{last}/"):
            yield inner[len(last) + 1 :], [*how, "they begin with the last folder of --root"]
        if "%" in slashed and unquote(slashed) != slashed:
            yield unquote(slashed), [*how, "percent signs are read as in a URL"]
        if not slashed.isascii():
            try:  # file names in Windows-1252
                yield os.fsdecode(slashed.encode("cp1252")), how
            except UnicodeEncodeError:
                return


def _slashes(path: str) -> str:
    return path.replace("\\", "/")
