"""One video to one uint8 clip: frames drawn, crop drawn, decoded. Plain functions; no Ray here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stm.config import DataConfig, Decoder
from stm.data import decode
from stm.data.stream import sampling, transforms
from stm.data.video import Geometry, naming_failures


@dataclass(frozen=True)
class ClipSpec:
    """How a clip is drawn from a video."""

    num_segments: int
    size: int
    decoder: Decoder = "auto"
    augment: bool = False
    """Training: random frames, corner crop with scale jitter, mirror image. Testing: as the fields below say."""
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    """Mirror half the training clips; their labels stay."""
    flip_map: dict[int, int] | None = None
    """Where labels do not stay: what a label becomes when mirrored; one that is no key is never mirrored."""
    random_frames: bool = False
    """Testing: draw frames at random, as the 30-view protocol does, instead of taking segment centres."""
    num_crops: int = 1
    """Testing: 1 is the centre crop (224 of 256), more are squares along the long side."""
    limits: decode.Limits = decode.DEFAULT_LIMITS
    """A video that takes more is refused."""

    @classmethod
    def training(
        cls, config: DataConfig, *, flip: bool, flip_map: dict[int, int] | None
    ) -> ClipSpec:
        """The augmentation of ``config``; ``flip`` and ``flip_map`` are the manifest's."""
        return cls(
            num_segments=config.num_segments,
            size=config.size,
            decoder=config.decoder,
            limits=limits_of(config),
            augment=True,
            scales=tuple(config.scales),
            flip=flip and config.flip != "never",
            flip_map=flip_map if config.flip == "swap" else None,
        )

    @classmethod
    def one_clip(cls, config: DataConfig) -> ClipSpec:
        """The `efficient` protocol: segment centres, centre crop."""
        return cls(
            num_segments=config.num_segments,
            size=config.size,
            decoder=config.decoder,
            limits=limits_of(config),
        )

    @property
    def clip_bytes(self) -> int:
        """Memory of one sample's views."""
        return self.num_crops * self.num_segments * self.size * self.size * 3


def limits_of(config: DataConfig) -> decode.Limits:
    """What a video of a run may take."""
    return decode.Limits(config.max_pixels, config.decode_mib * 2**20)


def load_views(
    path: str, num_frames: int, width: int, height: int, label: int, seed: int, spec: ClipSpec
) -> tuple[np.ndarray, int]:
    """Decode the views that ``seed`` draws from a video.

    Returns (uint8 [V, T, size, size, 3], label); V is 1, or ``spec.num_crops`` of the same frames. The label differs
    from the one given only where the clip was mirrored and ``spec.flip_map`` says so.

    Raises ``decode.VideoError``, and nothing else: where a wanted frame cannot be had, where the video no longer has
    the length and size given (``changed``), and for whatever else goes wrong on the way.
    """
    with naming_failures(path):
        return _load_views(path, Geometry(num_frames, width, height), label, seed, spec)


def _load_views(
    path: str, planned: Geometry, label: int, seed: int, spec: ClipSpec
) -> tuple[np.ndarray, int]:
    num_frames, width, height = planned.num_frames, planned.width, planned.height
    generator = np.random.Generator(np.random.PCG64(seed))
    if spec.augment or spec.random_frames:
        indices = sampling.random_indices(num_frames, spec.num_segments, generator)
    else:
        indices = sampling.centre_indices(num_frames, spec.num_segments)
    mirrored_label, is_mirrored = None, False
    if spec.augment:
        mirrored_label = label if spec.flip else (spec.flip_map or {}).get(label)
        view = transforms.random_view(
            width, height, spec.scales, mirrored_label is not None, generator
        )
        boxes, is_mirrored = [view.box], view.flip
    elif spec.num_crops == 1:
        boxes = [transforms.centre_box(width, height)]
    else:
        boxes = transforms.long_side_boxes(width, height, spec.num_crops)
    clips = decode.read_views(
        path, indices.tolist(), boxes, spec.size, spec.decoder, planned, spec.limits
    )
    if is_mirrored and mirrored_label is not None:
        return clips[:, :, :, ::-1], mirrored_label
    return clips, label
