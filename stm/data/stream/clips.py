"""One video to one uint8 clip: frames drawn, crop drawn, decoded. Plain functions; no Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np

from stm.config import Crop, DataConfig, Decoder, Sampling
from stm.data import decode
from stm.data.annotations.reversing import backwards
from stm.data.stream import sampling, transforms
from stm.data.stream.augment import Augmentation, Operation, apply, draws
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
    """True in training: random frames and crop, and the augmentations set below. False in testing."""
    crop: Crop = DataConfig.crop
    scales: tuple[float, ...] = (1.0,)
    crop_area: tuple[float, float] = (0.08, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    pixels: Augmentation = field(default_factory=Augmentation)
    temporal_jitter: float = 0.0
    reverse: bool = False
    """Play half the training clips backwards; their labels stay."""
    reverse_map: dict[int, int] | None = None
    """Like ``flip_map``, for clips that are played backwards."""
    flip: bool = False
    """Mirror half the training clips; their labels stay."""
    flip_map: dict[int, int] | None = None
    """Maps a label to the label of its mirror image. Clips whose label is no key are never mirrored."""
    num_samplings: int = 1
    """Testing: 1 uses segment centres, or the window in the middle. With more, as in the 30-view protocol, each
    sampling draws random frames from the segments; windows are spread evenly."""
    num_crops: int = 1
    """Testing: 1 is the centre crop (224 of 256); more are squares along the long side."""
    limits: decode.Limits = decode.DEFAULT_LIMITS
    """A video that exceeds these limits is refused."""

    @classmethod
    def training(
        cls,
        config: DataConfig,
        *,
        flip: bool,
        flip_map: dict[int, int] | None,
        classes: Sequence[str] = (),
    ) -> ClipSpec:
        """The augmentation of ``config``; ``flip``, ``flip_map`` and ``classes`` are the manifest's."""
        pairs = backwards(classes) if config.reverse != "never" else []
        return replace(
            cls.one_clip(config),
            augment=True,
            crop=config.crop,
            scales=tuple(config.scales),
            crop_area=(config.crop_area[0], config.crop_area[1]),
            crop_ratio=(config.crop_ratio[0], config.crop_ratio[1]),
            pixels=Augmentation(
                **{each.name: getattr(config, each.name) for each in fields(Augmentation)}
            ),
            temporal_jitter=config.temporal_jitter,
            reverse=config.reverse != "never" and not pairs,
            reverse_map={a: b for pair in pairs for a, b in (pair, pair[::-1])}
            if config.reverse == "swap"
            else None,
            flip=flip and config.flip != "never",
            flip_map=flip_map if config.flip == "swap" else None,
        )

    @classmethod
    def one_clip(cls, config: DataConfig) -> ClipSpec:
        """The `efficient` protocol: segment centres or the middle window, with the centre crop."""
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

    def window(self, num_frames: int, place: float = 0.5, pace: float = 1.0) -> decode.Frames:
        """The frames of the window at ``place``, stretched by ``pace``. Segments give their centres at any place.
        Returns a function of the frame times where the frames depend on them."""
        if self.sampling == "dense":
            stride = self.frame_stride * pace
            return sampling.dense_indices(num_frames, self.num_segments, stride, place)
        if self.sampling == "seconds":
            return partial(
                sampling.timed_indices,
                num_segments=self.num_segments,
                window_s=self.window_s * pace,
                place=place,
            )
        return sampling.centre_indices(num_frames, self.num_segments)

    def rate(self, fps: float) -> float:
        """Frames per second of a video; ``fps`` is 0.0 if unknown."""
        return float(np.float32(fps)) or self.folder_fps  # a manifest keeps float32

    @property
    def clip_bytes(self) -> int:
        """Memory of one sample's views."""
        return self.num_crops * self.num_segments * self.size * self.size * 3


def reversal(config: DataConfig, classes: Sequence[str]) -> str:
    """Describe which training clips are played backwards."""
    pairs, said = backwards(classes), f"--data.reverse {config.reverse}:"
    if not pairs:
        return f"{said} half the clips of every class are played backwards"
    named = " and ".join(repr(classes[label]) for label in pairs[0])
    more = f", as {2 * len(pairs)} of {len(classes)} classes are" if len(pairs) > 1 else ""
    if config.reverse == "auto":
        return f"{said} no clip is played backwards, since {named} are reversals of each other{more}; `swap` swaps them"
    return f"{said} of {2 * len(pairs)} of {len(classes)} classes half the clips become the other's, such as {named}"


def limits_of(config: DataConfig) -> decode.Limits:
    """The limits on the videos of a run."""
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

    ``fps`` comes from the manifest; ``sampling_number`` counts the ``spec.num_samplings`` samplings from 0.

    Returns (uint8 [V, T, size, size, 3], label). V is 1, or ``spec.num_crops`` crops of the same frames. The label
    changes only if the clip was mirrored or reversed and the spec's maps give it another one.

    Raises ``decode.VideoError`` and nothing else: if a wanted frame cannot be decoded, if the length or size of the
    video has changed (``changed``), or on any other failure.
    """
    with naming_failures(path):
        planned = Geometry(num_frames, width, height, spec.rate(fps))
        return _load_views(path, planned, label, seed, spec, sampling_number)


def _load_views(
    path: str, planned: Geometry, label: int, seed: int, spec: ClipSpec, sampling_number: int
) -> tuple[np.ndarray, int]:
    if spec.augment:
        drawn = draw(planned.num_frames, planned.width, planned.height, label, seed, spec)
        frames, boxes = drawn.frames, [drawn.box]
    else:
        frames = frames_of_test(planned.num_frames, seed, spec, sampling_number)
        boxes = boxes_of_test(planned.width, planned.height, spec)
    clips = decode.read_views(path, frames, boxes, spec.size, spec.decoder, planned, spec.limits)
    if not spec.augment:
        return clips, label
    if drawn.is_mirrored:
        clips = clips[:, :, :, ::-1]
    if drawn.is_reversed:
        clips = clips[:, ::-1]
    if drawn.operations:
        clips = apply(clips[0], drawn.operations)[None]
    return clips, drawn.label


def boxes_of_test(width: int, height: int, spec: ClipSpec) -> list[transforms.Box]:
    """The crops of a test clip, for frames of ``width`` x ``height`` px."""
    if spec.num_crops == 1:
        return [transforms.centre_box(width, height)]
    return transforms.long_side_boxes(width, height, spec.num_crops)


def frames_of_test(
    num_frames: int, seed: int, spec: ClipSpec, sampling_number: int
) -> decode.Frames:
    """The frames of a test clip of a ``num_frames`` video; a function of times as in ``ClipSpec.window``."""
    if spec.sampling == "segments" and spec.num_samplings > 1:
        generator = np.random.Generator(np.random.PCG64(seed))
        return sampling.random_indices(num_frames, spec.num_segments, generator)
    number = sampling_number % spec.num_samplings
    return spec.window(num_frames, (number + 0.5) / spec.num_samplings)


@dataclass(frozen=True)
class Drawn:
    """The random choices for one training clip."""

    frames: decode.Frames
    box: transforms.Box
    is_mirrored: bool
    is_reversed: bool
    label: int
    """Label after mirroring and reversal."""
    operations: list[Operation]
    """Operations on the pixels, in order."""
    pace: float = 1.0
    """Length of the window, or of the part that segments cover, relative to no jitter."""


def draw(num_frames: int, width: int, height: int, label: int, seed: int, spec: ClipSpec) -> Drawn:
    """Draw a training clip. One generator draws frames, crop and mirroring; the others have their own."""
    generator = np.random.Generator(np.random.PCG64(seed))
    pace, place = _pace(seed, spec)
    frames: decode.Frames
    if spec.sampling == "segments":
        frames = sampling.random_indices(
            num_frames, spec.num_segments, generator, place=place, share=pace
        )
    else:
        frames = spec.window(num_frames, generator.random(), pace)
    mirrored = label if spec.flip else (spec.flip_map or {}).get(label)
    num_places = 13 if spec.crop == "corners13" else 5
    box, is_mirrored = transforms.random_view(
        width, height, spec.scales, mirrored is not None, generator, num_places
    )
    if spec.crop == "resized":
        anywhere = draws(seed, "crop")
        box = transforms.random_resized_box(
            width, height, spec.crop_area, spec.crop_ratio, anywhere
        )
    if is_mirrored and mirrored is not None:
        label = mirrored
    reversed_ = label if spec.reverse else (spec.reverse_map or {}).get(label)
    is_reversed = reversed_ is not None and bool(draws(seed, "reverse").random() < 0.5)
    return Drawn(
        frames=frames,
        box=box,
        is_mirrored=bool(is_mirrored),
        is_reversed=is_reversed,
        label=reversed_ if is_reversed and reversed_ is not None else label,
        operations=spec.pixels.draw(seed, spec.size),
        pace=pace,
    )


def _pace(seed: int, spec: ClipSpec) -> tuple[float, float]:
    """The pace of the clip, and the place of the part of the video that segments cover."""
    if not spec.temporal_jitter:
        return 1.0, 0.0
    speed, place = draws(seed, "pace").random(2).tolist()
    longest = 1.0 if spec.sampling == "segments" else 1 + spec.temporal_jitter
    shortest = 1 / (1 + spec.temporal_jitter)
    return shortest + (longest - shortest) * speed, place
