"""Which images of a folder are a video's frames, and in which order, told by their names alone.

    pick_series(["img_00002.jpg", "flow_x_00001.jpg", "img_00001.jpg"])
    # ["img_00001.jpg", "img_00002.jpg"]

Optical flow, depth and masks often lie beside the RGB frames. A series is the names that differ in
their number alone, so each of these is a series of its own, and only one is the video.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
"""Suffixes, in lower case, of the images that are read as frames. GIF and APNG are videos."""

# Words in the names of what is computed from frames, or filmed beside them by another sensor.
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
# Pictures of the whole video, as players and file managers leave them.
_COVERS = frozenset(
    {"cover", "folder", "thumb", "thumbs", "thumbnail", "poster", "preview", "montage", "albumart"}
)


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image; hidden ones are not."""
    return not name.startswith(".") and _extension(name) in IMAGE_EXTENSIONS


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorting key: runs of digits by value, so that 2.jpg comes before 10.jpg."""
    parts = re.split(r"([0-9]+)", name)
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


@dataclass(frozen=True, slots=True)
class _Name:
    text: str
    prefix: str
    number: str
    """As written, such as 00017 or 12.500 (a time in seconds); "" where there is none."""

    suffix: str
    """Between the number and the extension."""

    extension: str

    @property
    def value(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.number.split("."))


def frame_series(names: Iterable[str]) -> dict[str, list[str]]:
    """The images among `names` by series: pattern such as `img_*.jpg` -> names in frame order.

    Names are of one series where they agree before and after their last number. Letter case, the
    extension and leading zeros tell series apart only where a number would occur twice otherwise.
    A name without a number is a series of its own. Hidden files and other suffixes are left out.
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
            while key in series:  # a name may have a star in it
                key += "*"
            series[key] = [name.text for name in part]
    return series


def pick_series(names: Iterable[str]) -> list[str]:
    """The names of a video's frames in order, from all the names of its folder.

    Where there are several series the one of RGB frames is taken: what is called flow, depth, mask
    and the like goes where it has numbers of the other's, then a series called img, image, frame or
    rgb wins. Names that are all unlike each other are one series. [] where no name is an image's.

    Raises ValueError, naming the series, where it is not clear which of them is the video, and
    where numbers such as 1.9 and 1.10 may be read in two ways.
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
            f"several series of images, and no telling which is the video: {shown}{more}; "
            "keep one series a folder"
        )
    (chosen,) = series.values() or ([],)
    _check_decimals(chosen)
    return chosen


def _one_plain_series(images: list[str]) -> list[str] | None:
    """The images in order where they differ in digits alone, as most folders' do; else None.

    A shortcut: a clip is read from a folder in a few milliseconds, and its names come first.
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
    """Groups that differ in further numbers alone, joined unless they share frame numbers.

    So shot1_0001, shot2_0002 is one series, while cam1_0001, cam2_0001 are two.
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
    # Zeros in front, as in 00001 beside 1.
    lambda name: str(len(name.number)) if name.number.startswith("0") else "",
)


def _told_apart(group: list[_Name], finer: list[Callable[[_Name], str]]) -> list[list[_Name]]:
    """`group` cut by the first of `finer` that help, until no number occurs twice in a part."""
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
    """Lower-case words of a series' name; digits, marks and CamelCase separate them."""
    stem = os.path.splitext(key)[0]
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem).lower()
    return set(re.findall(r"[^\W\d_]+", spaced))


def _without_companions(series: dict[str, list[str]]) -> dict[str, list[str]]:
    """The series without flow, masks and covers; all of them where nothing else would be left."""
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
    """A stem in lower case without the words that make it a companion's."""
    words = re.split(r"([\W_]+)", os.path.splitext(name)[0].casefold())
    return "".join(word for word in words if word not in _COMPANIONS).strip("_-. ")


def _share_numbers(series: dict[str, list[str]]) -> bool:
    """Whether some frame number occurs in two series, as it does where one is made of another."""
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
            f"the order of {first} and {second} is not clear: write numbers with as many digits "
            "after the point"
        )
