"""Colour maps for colour-blind readers, with one scale for all frames of a row.

Magnitudes use matplotlib's ``viridis``, whose lightness rises evenly. Evidence uses ``PuOr``: purple is evidence
against the class, orange evidence for it, and white is neither.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import interpolate

MAGNITUDE, EVIDENCE = "viridis", "PuOr_r"
_LIGHT = 0.55
_STRONGEST = 0.85
"""Opacity of the largest value when a map lies over a picture."""


@dataclass(frozen=True)
class Scale:
    """The values at the two ends of a colour scale."""

    low: float
    high: float
    colours: str

    @classmethod
    def of_magnitudes(cls, maps: np.ndarray) -> Scale:
        """A scale from the smallest to the largest value."""
        return cls(float(maps.min()), float(maps.max()), MAGNITUDE)

    @classmethod
    def of_evidence(cls, maps: np.ndarray) -> Scale:
        """A scale that is symmetric about zero, so that 0 is white."""
        most = float(np.abs(maps).max())
        return cls(-most, most, EVIDENCE)

    def unit(self, maps: np.ndarray) -> np.ndarray:
        """Scale values to 0 .. 1, in the same shape. A constant row becomes 0, or 0.5 if the scale is of evidence."""
        if self.high <= self.low:
            return np.full_like(maps, 0.5 if self.colours == EVIDENCE else 0.0)
        return np.clip((maps - self.low) / (self.high - self.low), 0, 1)

    def paint(self, maps: np.ndarray) -> np.ndarray:
        """Colour values: float [...] -> uint8 [..., 3], RGB."""
        from matplotlib import colormaps

        table = colormaps[self.colours](np.arange(256), bytes=True)[:, :3]
        return table[np.rint(255 * self.unit(maps)).astype(np.uint8)]

    def lay_over(self, pictures: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """Lay maps over grey pictures, with more opacity for stronger values.

        Under evidence the grey is light, because the middle of its colours is white.

        ``pictures: uint8 [T, H, W, 3]``, ``maps: float [T, h, w]`` -> uint8 [T, H, W, 3].
        """
        spread = stretch(maps, pictures.shape[1], pictures.shape[2])
        unit = self.unit(spread)
        strength = np.abs(2 * unit - 1) if self.colours == EVIDENCE else unit
        opacity = _STRONGEST * strength[..., None]
        grey = np.repeat(pictures.mean(-1, keepdims=True), 3, axis=-1)
        if self.colours == EVIDENCE:
            grey = 255 - _LIGHT * (255 - grey)
        return np.rint(grey * (1 - opacity) + self.paint(spread) * opacity).astype(np.uint8)


def stretch(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize maps bilinearly: float32 [T, h, w] -> float32 [T, height, width]."""
    values = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[:, None]
    return interpolate(values, (height, width), mode="bilinear", align_corners=False)[:, 0].numpy()


def cells(maps: np.ndarray, side: int) -> np.ndarray:
    """Enlarge each cell to a block of equal pixels: ``[T, h, w, ...]`` -> ``[T, side, side, ...]``."""
    rows, columns = (np.arange(side) * edge // side for edge in maps.shape[1:3])
    return maps[:, rows[:, None], columns[None]]
