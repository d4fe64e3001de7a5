"""One video to one uint8 clip: frames drawn, crop drawn, decoded. Plain functions; no Ray here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from stm.config import DataConfig, Decoder, Sampling
from stm.data import decode
from stm.data.stream import sampling, transforms
from stm.data.video import Geometry, naming_failures


@dataclass(frozen=True)
class ClipSpec:
    """How a clip is drawn from a video."""

    num_segments: int
    size: int
    decoder: Decoder = "auto"
    sampling: Sampling = DataConfig.sampling
    frame_stride: int = DataConfig.frame_stride
    window_s: float = DataConfig.window_s
    folder_fps: float = DataConfig.folder_fps
    augment: bool = False
    """Training: random frames, corner crop with scale jitter, mirror image. Testing: as the fields below say."""
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    """Mirror half the training clips; their labels stay."""
    flip_map: dict[int, int] | None = None
    """Where labels do not stay: what a label becomes when mirrored; one that is no key is never mirrored."""
    num_samplings: int = 1
    """Testing: 1 takes segment centres, or the window in the middle. Of more, as the 30-view protocol has them, each
    draws its frames at random from the segments, and windows are spread evenly."""
    num_crops: int = 1
    """Testing: 1 is the centre crop (224 of 256), more are squares along the long side."""
    limits: decode.Limits = decode.DEFAULT_LIMITS
    """A video that takes more is refused."""

    @classmethod
    def training(
        cls, config: DataConfig, *, flip: bool, flip_map: dict[int, int] | None
    ) -> ClipSpec:
        """The augmentation of ``config``; ``flip`` and ``flip_map`` are the manifest's."""
        return replace(
            cls.one_clip(config),
            augment=True,
            scales=tuple(config.scales),
            flip=flip and config.flip != "never",
            flip_map=flip_map if config.flip == "swap" else None,
        )

    @classmethod
    def one_clip(cls, config: DataConfig) -> ClipSpec:
        """The `efficient` protocol: segment centres or the window in the middle, centre crop."""
        return cls(
            num_segments=config.num_segments,
            size=config.size,
            decoder=config.decoder,
            sampling=config.sampling,
            frame_stride=config.frame_stride,
            window_s=config.window_s,
            folder_fps=config.folder_fps,
            limits=limits_of(config),
        )

    def window(self, num_frames: int, place: float = 0.5) -> decode.Frames:
        """The frames of the window at ``place``; of segments their centres, wherever. A function of the times at which
        frames appear, where they depend on them."""
        if self.sampling == "dense":
            return sampling.dense_indices(num_frames, self.num_segments, self.frame_stride, place)
        if self.sampling == "seconds":
            return partial(
                sampling.timed_indices,
                num_segments=self.num_segments,
                window_s=self.window_s,
                place=place,
            )
        return sampling.centre_indices(num_frames, self.num_segments)

    def rate(self, fps: float) -> float:
        """Frames a second of a video of which ``fps`` is known, 0.0 for nothing."""
        return float(np.float32(fps)) or self.folder_fps  # a manifest keeps float32

    @property
    def clip_bytes(self) -> int:
        """Memory of one sample's views."""
        return self.num_crops * self.num_segments * self.size * self.size * 3


def limits_of(config: DataConfig) -> decode.Limits:
    """What a video of a run may take."""
    return decode.Limits(config.max_pixels, config.decode_mib * 2**20)


def load_views(
    path: str,
    num_frames: int,
    width: int,
    height: int,
    label: int,
    seed: int,
    spec: ClipSpec,
    fps: float = 0.0,
    sampling_number: int = 0,
) -> tuple[np.ndarray, int]:
    """Decode the views that ``seed`` draws from a video.

    ``fps`` is the manifest's; ``sampling_number``, from 0, is which of ``spec.num_samplings`` it is.

    Returns (uint8 [V, T, size, size, 3], label); V is 1, or ``spec.num_crops`` of the same frames. The label differs
    from the one given only where the clip was mirrored and ``spec.flip_map`` says so.

    Raises ``decode.VideoError``, and nothing else: where a wanted frame cannot be had, where the video no longer has
    the length and size given (``changed``), and for whatever else goes wrong on the way.
    """
    with naming_failures(path):
        planned = Geometry(num_frames, width, height, spec.rate(fps))
        return _load_views(path, planned, label, seed, spec, sampling_number)


def _load_views(
    path: str, planned: Geometry, label: int, seed: int, spec: ClipSpec, sampling_number: int
) -> tuple[np.ndarray, int]:
    num_frames, width, height = planned.num_frames, planned.width, planned.height
    generator = np.random.Generator(np.random.PCG64(seed))
    is_drawn = spec.augment or spec.num_samplings > 1
    frames: decode.Frames
    if spec.sampling == "segments" and is_drawn:
        frames = sampling.random_indices(num_frames, spec.num_segments, generator)
    elif spec.augment:
        frames = spec.window(num_frames, generator.random())
    else:
        frames = spec.window(
            num_frames, (sampling_number % spec.num_samplings + 0.5) / spec.num_samplings
        )
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
    clips = decode.read_views(path, frames, boxes, spec.size, spec.decoder, planned, spec.limits)
    if is_mirrored and mirrored_label is not None:
        return clips[:, :, :, ::-1], mirrored_label
    return clips, label
