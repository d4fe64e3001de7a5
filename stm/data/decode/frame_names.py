"""Choose and sort the frames of a video from the file names of a folder.

    pick_series(["img_00002.jpg", "flow_x_00001.jpg", "img_00001.jpg"])
    # ["img_00001.jpg", "img_00002.jpg"]

Names that differ only in their number form a series. Optical flow, depth maps and masks often lie
beside the RGB frames; each of them is a separate series, and only one series is the video.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes, in lower case, of images that are read as frames. GIF and APNG files are videos."""

# Words in the names of images that were computed from the frames or recorded by another sensor.
_COMPANIONS = frozenset(
    {
        *("flow", "flowx", "flowy", "flo", "tvl", "x", "y", "u", "v", "warp", "motion", "mv"),
        *("depth", "disp", "disparity", "ir", "infrared", "thermal", "normal", "normals"),
        *("mask", "masks", "seg", "segm", "segmentation", "alpha", "matte", "gt", "label"),
        *("labels", "annotation", "edge", "edges", "heatmap", "saliency", "pose", "skeleton"),
        *("keypoints", "openpose", "thumb", "thumbnail", "diff", "rgbdiff"),
    }
)
_RGB = frozenset(
    {"rgb", "color", "colour", "img", "imgs", "image", "images", "frame", "frames", "im"}
)
# Words in the names of preview pictures, which players and file managers create.
_COVERS = frozenset(
    {"cover", "folder", "thumb", "thumbs", "thumbnail", "poster", "preview", "montage", "albumart"}
)


def is_image_name(name: str) -> bool:
    """Return whether a file with this name counts as an image. Hidden files do not."""
    return not name.startswith(".") and _extension(name) in IMAGE_EXTENSIONS


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Return a sorting key that compares digits by value, so that 2.jpg comes before 10.jpg."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


@dataclass(frozen=True, slots=True)
class _Name:
    text: str
    prefix: str
    number: str
    """As written, such as 00017 or 12.500 (a time in seconds); "" if there is none."""

    suffix: str
    """The text between the number and the extension."""

    extension: str

    @property
    def value(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.number.split("."))


def frame_series(names: Iterable[str]) -> dict[str, list[str]]:
    """Group the images among `names` by series: pattern such as `img_*.jpg` -> names in frame order.

    Names belong to one series if they agree before and after their last number. Letter case, the
    extension and leading zeros separate series only if a number would occur twice otherwise. A name
    without a number is a separate series. Hidden files and files with other suffixes are left out.
    """
    parsed = [_parse(name) for name in sorted(set(names), key=natural_order) if is_image_name(name)]
    numbered: dict[tuple[str, ...], list[_Name]] = defaultdict(list)
    series: dict[str, list[str]] = {}
    for name in parsed:
        if name.number:
            numbered[name.prefix.casefold(), name.suffix.casefold()].append(name)
        else:
            series[name.text] = [name.text]
    for group in _joined(list(numbered.values())):
        parts = _told_apart(group, list(_FINER))
        times = Counter(_pattern(part) for part in parts)
        for part in parts:
            by_zeros = times[_pattern(part)] > 1 and part[0].number.startswith("0")
            mark = "#" * len(part[0].number) if by_zeros else "*"
            key = _pattern(part, mark)
            while key in series:  # a name may contain a star
                key += "*"
            series[key] = [name.text for name in part]
    return series


def pick_series(names: Iterable[str]) -> list[str]:
    """Return the names of a video's frames in order, from all names in its folder; [] if none is an image.

    If there are several series, the RGB series is chosen. Series named flow, depth, mask or similar
    are dropped if they share numbers with another series. Then a series named img, image, frame or
    rgb is preferred. If each series has only one name, all names form one series.

    Raises:
        ValueError: If it is unclear which series is the video (the message names the series), or if
            numbers such as 1.9 and 1.10 can be read in two ways.
    """
    images = [name for name in set(names) if is_image_name(name)]
    simple = _one_plain_series(images)
    if simple is not None:
        return simple
    series = frame_series(images)
    if len(series) > 1:
        series = _without_companions(series)
    if len(series) > 1:
        named = {key: found for key, found in series.items() if _words(key) & _RGB}
        if len(named) == 1 and _share_numbers(series):
            series = named
    if len(series) > 1 and all(len(found) == 1 for found in series.values()):
        together = [name for found in series.values() for name in found]
        series = {"": sorted(together, key=natural_order)}
    if len(series) > 1:
        most = sorted(series.items(), key=lambda item: -len(item[1]))
        shown = ", ".join(f"{key} ({len(found)})" for key, found in most[:6])
        more = f" and {len(most) - 6} more" if len(most) > 6 else ""
        raise ValueError(
            f"there are several series of images, and it is not clear which is the video: {shown}{more}; "
            "keep one series in each folder"
        )
    (chosen,) = series.values() or ([],)
    _check_decimals(chosen)
    return chosen


def _one_plain_series(images: list[str]) -> list[str] | None:
    """The images in order if their names differ only in digits, as in most folders; else None.

    This is a fast path: the names are sorted for every clip that is read.
    """
    if not images:
        return []
    first = _parse(images[0])
    if not first.number.isdecimal():
        return None
    start, tail = len(first.prefix), first.suffix + first.extension
    stop = -len(tail)
    by_number: dict[int, str] = {}
    for name in images:
        digits = name[start:stop]
        if not (digits.isascii() and digits.isdecimal()):
            return None
        if name[:start] != first.prefix or name[stop:] != tail:
            return None
        by_number[int(digits)] = name
    if len(by_number) < len(images):
        return None
    return [by_number[number] for number in sorted(by_number)]


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _parse(name: str) -> _Name:
    stem, extension = os.path.splitext(name)
    found = re.fullmatch(r"(.*?)([0-9]+(?:\.[0-9]+)?)([^0-9]*)", stem, re.DOTALL)
    if found is None:
        return _Name(name, stem, "", "", extension)
    prefix, number, suffix = found.groups()
    return _Name(name, prefix, number, suffix, extension)


def _joined(groups: list[list[_Name]]) -> list[list[_Name]]:
    """Join the groups that differ only in further numbers, unless they share frame numbers.

    For example, shot1_0001 and shot2_0002 become one series; cam1_0001 and cam2_0001 stay two.
    """
    alike: dict[tuple[str, str], list[list[_Name]]] = defaultdict(list)
    for group in groups:
        first = group[0]
        skeleton = re.sub(r"[0-9]+", "0", first.prefix.casefold())
        alike[skeleton, first.suffix.casefold()].append(group)
    joined: list[list[_Name]] = []
    for same in alike.values():
        together = sorted((name for group in same for name in group), key=_order)
        values = Counter(name.value for name in together)
        if len(values) == len(together):
            joined.append(together)
        else:
            joined.extend(same)
    return joined


def _order(name: _Name) -> tuple[list[tuple[int, str]], str]:
    return natural_order(name.text)


_FINER: tuple[Callable[[_Name], str], ...] = (
    lambda name: name.extension.lower(),
    lambda name: f"{name.prefix}*{name.suffix}{name.extension}",
    # Leading zeros: 00001 beside 1.
    lambda name: str(len(name.number)) if name.number.startswith("0") else "",
)


def _told_apart(group: list[_Name], finer: list[Callable[[_Name], str]]) -> list[list[_Name]]:
    """Split `group` by each function of `finer` in turn, until no number occurs twice in a part."""
    if len({name.value for name in group}) == len(group) or not finer:
        return [sorted(group, key=_by_number)]
    parts: dict[str, list[_Name]] = defaultdict(list)
    for name in group:
        parts[finer[0](name)].append(name)
    return [cut for part in parts.values() for cut in _told_apart(part, finer[1:])]


def _by_number(name: _Name) -> tuple[object, ...]:
    numbers = [int(number) for number in re.findall(r"[0-9]+", name.prefix)]
    return (numbers, name.value, name.text)


def _pattern(part: list[_Name], mark: str = "*") -> str:
    first = part[0]
    prefix = first.prefix
    if len({name.prefix.casefold() for name in part}) > 1:
        prefix = re.sub(r"[0-9]+", "*", prefix)
    kinds = sorted({name.extension for name in part})
    ending = kinds[0] if len(kinds) == 1 else "{" + ",".join(kinds) + "}"
    return f"{prefix}{mark}{first.suffix}{ending}"


def _words(key: str) -> set[str]:
    """Lower-case words of a series' name, split at digits, punctuation and CamelCase."""
    stem = os.path.splitext(key)[0]
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower()
    return set(re.findall(r"[^\W\d_]+", spaced))


def _without_companions(series: dict[str, list[str]]) -> dict[str, list[str]]:
    """The series without flow, masks and covers; all of them if nothing else would be left."""
    common = set.intersection(*(_words(key) for key in series))
    beside = {key for key in series if (_words(key) - common) & _COMPANIONS}
    kept = {key: found for key, found in series.items() if key not in beside}
    numbers = {_parse(name).value for found in kept.values() for name in found if _has(name)}
    stems = {os.path.splitext(name)[0] for found in kept.values() for name in found}
    for key in sorted(beside):
        found = series[key]
        if not _has(found[0]):
            # scene_a_mask beside scene_a
            belongs = any(_bare(found[0]) == stem.casefold() for stem in stems)
        else:
            belongs = any(_parse(name).value in numbers for name in found)
        if not belongs:
            kept[key] = found
    if any(len(found) > 1 for found in kept.values()):
        kept = {
            key: found
            for key, found in kept.items()
            if _has(found[0]) or not _words(found[0]) & _COVERS
        }
    return kept or series


def _has(name: str) -> bool:
    return bool(_parse(name).number)


def _bare(name: str) -> str:
    """A stem in lower case, without the words of ``_COMPANIONS``."""
    words = re.split(r"([\W_]+)", os.path.splitext(name)[0].casefold())
    return "".join(word for word in words if word not in _COMPANIONS).strip("_-. ")


def _share_numbers(series: dict[str, list[str]]) -> bool:
    """Whether a frame number occurs in two series, as when one is computed from the other."""
    counts = Counter(
        value
        for found in series.values()
        for value in {_parse(name).value for name in found if _has(name)}
    )
    return any(count > 1 for count in counts.values())


def _check_decimals(names: list[str]) -> None:
    fractions: dict[int, str] = {}
    for name in names:
        _, point, fraction = _parse(name).number.partition(".")
        if point:
            fractions.setdefault(len(fraction), name)
    if len(fractions) > 1:
        first, second = list(fractions.values())[:2]
        raise ValueError(
            f"the order of {first} and {second} is not clear: write all numbers with the same number of "
            "digits after the point"
        )
