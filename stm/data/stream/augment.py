"""Pixel augmentations of training clips. They are drawn from the sample's seed and are the same for all frames.

    drawn = Augmentation(color_jitter=0.4, randaugment=2).draw(seed)     # [Operation("rotate", -27.0), ...]
    clip = apply(clip, drawn)                                            # uint8 [T, S, S, 3] -> the same

Each kind of augmentation has its own random generator, so switching one on or off does not change the others, the
frames or the crop. Pillow does the arithmetic on uint8. Operations on single pixels treat all frames as one picture:
means and histograms are those of the clip, so nothing flickers.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stm.data.stream.plan import mix
from stm.data.stream.transforms import sides_of

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = (124, 116, 104)
"""Fill colour outside a rotated picture: ImageNet's mean, which the network sees as 0."""
FULL_MAGNITUDE = 10.0
"""Upper end of RandAugment's magnitude scale, as in timm and the papers on video."""
BLUR_PX = (0.1, 2.0)
ERASED_SHARE, ERASED_RATIO = (0.02, 1 / 3), (0.3, 1 / 0.3)
_TRIES = 10
"""Attempts to draw a box that lies inside the picture."""


class Operation(NamedTuple):
    """One operation on a clip."""

    name: str
    strength: float = 0.0
    box: tuple[int, int, int, int] | None = None
    """The erased box: left, top, right, bottom in px."""
    seed: int = 0
    """Seed of the noise that fills the erased box."""

    def __str__(self) -> str:
        if self.box is not None:
            left, top, right, bottom = self.box
            return f"erase {right - left}x{bottom - top}"
        return f"{self.name} {self.strength:.3g}" if self.strength else self.name


def draws(seed: int, kind: str) -> np.random.Generator:
    """The generator of one kind of draw for a sample."""
    return np.random.Generator(np.random.PCG64(int(mix(seed, zlib.crc32(kind.encode())))))


@dataclass(frozen=True)
class Augmentation:
    """The augmentations to draw; the fields are those of ``stm.config.DataConfig``."""

    color_jitter: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    randaugment: int = 0
    randaugment_magnitude: float = 9.0
    erasing: float = 0.0

    def draw(self, seed: int, size: int) -> list[Operation]:
        """Draw the operations for a clip of ``size`` px, in order."""
        found: list[Operation] = []
        if self.randaugment:
            found += self._randaugment(draws(seed, "randaugment"))
        if self.color_jitter or self.hue:
            found += self._color(draws(seed, "color"))
        if self.grey and draws(seed, "grey").random() < self.grey:
            found.append(Operation("grey"))
        if self.blur:
            found += self._blur(draws(seed, "blur"))
        if self.erasing:
            found += self._erasing(draws(seed, "erasing"), size)
        return found

    def _randaugment(self, generator: np.random.Generator) -> list[Operation]:
        """Draw ``randaugment`` of the 14 operations of Cubuk et al. (NeurIPS 2020), each sign equally likely."""
        share = self.randaugment_magnitude / FULL_MAGNITUDE
        found = []
        for which, sign in generator.random((self.randaugment, 2)).tolist():
            name, strongest = _RANDAUGMENT[int(which * len(_RANDAUGMENT))]
            strength = strongest * share * (1 if sign < 0.5 else -1)
            if name in _FACTORS:
                strength += 1
            elif name in ("solarize", "posterize"):
                strength = abs(strength)
            found.append(Operation(name, strength))
        return found

    def _color(self, generator: np.random.Generator) -> list[Operation]:
        factors = 1 + self.color_jitter * (2 * generator.random(3) - 1)
        turn, *order = generator.random(5)
        found = [
            Operation(name, factor)
            for name, factor in zip(
                ("brightness", "contrast", "color"), factors.tolist(), strict=True
            )
            if self.color_jitter
        ]
        if self.hue:
            found.append(Operation("hue", self.hue * (2 * float(turn) - 1)))
        return [found[k] for k in np.argsort(order[: len(found)], kind="stable")]

    def _blur(self, generator: np.random.Generator) -> list[Operation]:
        chance, place = generator.random(2).tolist()
        return [Operation("blur", _between(*BLUR_PX, place))] if chance < self.blur else []

    def _erasing(self, generator: np.random.Generator, size: int) -> list[Operation]:
        if generator.random() >= self.erasing:
            return []
        for area, ratio, x, y in generator.random((_TRIES, 4)).tolist():
            covered = _between(*ERASED_SHARE, area) * size**2
            across, down = map(round, sides_of(covered, ERASED_RATIO, ratio))
            if 0 < across < size and 0 < down < size:
                left, top = int(x * (size - across + 1)), int(y * (size - down + 1))
                box = (left, top, left + across, top + down)
                return [Operation("erase", box=box, seed=int(generator.integers(2**63)))]
        return []


def _between(low: float, high: float, place: float) -> float:
    return low + (high - low) * place


def apply(clip: np.ndarray, operations: list[Operation]) -> np.ndarray:
    """Apply the operations in order: uint8 [T, S, S, 3] -> the same shape; a new array unless there are none."""
    for of_pixels, group in itertools.groupby(operations, lambda each: each.name in _OF_PIXELS):
        if of_pixels:
            clip = _as_one(clip, list(group))
            continue
        for operation in group:
            if operation.box is not None:
                clip = _erased(clip, operation.box, operation.seed)
            elif operation.name in _OF_FRAMES:
                clip = _each(clip, _OF_FRAMES[operation.name], operation.strength)
    return clip


def _as_one(clip: np.ndarray, operations: list[Operation]) -> np.ndarray:
    from PIL import Image

    frames, height, width, channels = clip.shape
    tall = Image.fromarray(np.ascontiguousarray(clip).reshape(frames * height, width, channels))
    for operation in operations:
        tall = _OF_PIXELS[operation.name](tall, operation.strength)
    return np.asarray(tall).reshape(clip.shape)


def _each(clip: np.ndarray, change: Callable[[Image, float], Image], strength: float) -> np.ndarray:
    from PIL import Image

    frames = (Image.fromarray(np.ascontiguousarray(frame)) for frame in clip)
    return np.stack([np.asarray(change(frame, strength)) for frame in frames])


def _erased(clip: np.ndarray, box: tuple[int, int, int, int], seed: int) -> np.ndarray:
    """Fill the box with the same noise in all frames, so that nothing seems to move."""
    left, top, right, bottom = box
    noise = np.random.Generator(np.random.PCG64(seed)).integers(
        0, 256, (bottom - top, right - left, 3), np.uint8
    )
    clip = clip.copy()
    clip[:, top:bottom, left:right] = noise
    return clip


def _stretched(image: Image, factor: float, middle: float) -> Image:
    """Move each level to ``factor`` times its distance from ``middle``."""
    levels = np.clip(np.floor(middle + factor * (np.arange(256) - middle) + 0.5), 0, 255)
    return image.point(levels.astype(int).tolist() * 3)


def _contrast(image: Image, factor: float) -> Image:
    counts = np.array(image.convert("L").histogram())
    return _stretched(image, factor, float(np.arange(256) @ counts / counts.sum()))


def _mixed(image: Image, matrix: np.ndarray) -> Image:
    """Mix the channels with ``matrix`` [3, 3]."""
    rows = np.concatenate([matrix, np.zeros((3, 1))], 1)
    return image.convert("RGB", tuple(rows.ravel().tolist()))


def _saturated(image: Image, factor: float) -> Image:
    luma = np.broadcast_to([0.299, 0.587, 0.114], (3, 3))
    return _mixed(image, factor * np.eye(3) + (1 - factor) * luma)


def _hue(image: Image, turn: float) -> Image:
    """Turn the colours around the axis of the greys; a third of a turn makes red green."""
    cosine, sine = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn) / math.sqrt(3)
    mean = (1 - cosine) / 3
    same, next_, last = cosine + mean, mean - sine, mean + sine
    return _mixed(image, np.array([[same, next_, last], [last, same, next_], [next_, last, same]]))


def _sharpness(image: Image, factor: float) -> Image:
    from PIL import ImageEnhance

    return ImageEnhance.Sharpness(image).enhance(factor)


def _ops(kind: str) -> Callable[[Image, float], Image]:
    def change(image: Image, _: float) -> Image:
        from PIL import ImageOps

        return getattr(ImageOps, kind)(image)

    return change


def _solarized(image: Image, strength: float) -> Image:
    from PIL import ImageOps

    return ImageOps.solarize(image, 256 - round(strength))


def _posterized(image: Image, strength: float) -> Image:
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(strength))


def _blurred(image: Image, radius: float) -> Image:
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(radius))


def _affine(
    matrix: Callable[[float, int, int], tuple[float, ...]],
) -> Callable[[Image, float], Image]:
    def change(image: Image, strength: float) -> Image:
        from PIL import Image

        return image.transform(
            image.size,
            Image.Transform.AFFINE,
            matrix(strength, *image.size),
            Image.Resampling.BILINEAR,
            fillcolor=GREY,
        )

    return change


def _rotated(image: Image, degrees: float) -> Image:
    from PIL import Image

    return image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=GREY)


_OF_PIXELS: dict[str, Callable[[Image, float], Image]] = {
    "brightness": lambda image, factor: _stretched(image, factor, 0.0),
    "contrast": _contrast,
    "color": _saturated,
    "autocontrast": _ops("autocontrast"),
    "equalize": _ops("equalize"),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
    "hue": _hue,
    "solarize": _solarized,
    "posterize": _posterized,
}
"""Operations on single pixels, independent of their neighbours."""
_OF_FRAMES: dict[str, Callable[[Image, float], Image]] = {
    "sharpness": _sharpness,
    "blur": _blurred,
    "rotate": _rotated,
    "shear_x": _affine(lambda shear, w, h: (1, shear, -shear * h / 2, 0, 1, 0)),
    "shear_y": _affine(lambda shear, w, h: (1, 0, 0, shear, 1, -shear * w / 2)),
    "translate_x": _affine(lambda share, w, h: (1, 0, share * w, 0, 1, 0)),
    "translate_y": _affine(lambda share, w, h: (1, 0, 0, 0, 1, share * h)),
}
_FACTORS = ("brightness", "contrast", "color", "sharpness")
_RANDAUGMENT = (
    *(("identity", 0.0), ("autocontrast", 0.0), ("equalize", 0.0), ("rotate", 30.0)),
    *(("solarize", 256.0), ("posterize", 4.0), ("color", 0.9), ("contrast", 0.9)),
    *(("brightness", 0.9), ("sharpness", 0.9), ("shear_x", 0.3), ("shear_y", 0.3)),
    *(("translate_x", 0.45), ("translate_y", 0.45)),
)
"""Name, and strength at full magnitude: degrees, levels, bits, distance from 1, shear, share of the side."""
