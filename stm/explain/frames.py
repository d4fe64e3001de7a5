"""Which frames of a video are shown, and which clip tells what the network sees in each of them.

The network sees T frames of a video, one of each segment. A film shows all of them, so its frames are dealt out to
clips: clip j takes the j-th frame of every segment. Each frame is then seen once in its own segment, as training and
the 30-view protocol see it, and no map is blended from others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stm.config import DataConfig
from stm.data import decode
from stm.data.stream import sampling, transforms
from stm.data.stream.clips import ClipSpec, limits_of
from stm.data.stream.guarded import GuardedDecoder
from stm.data.video import naming_failures

MOST_FRAMES = 256
"""A longer video is thinned evenly to so many for its film."""
_FPS_OF_FOLDERS = 12.0  # of Something-Something's frame folders, which state none


@dataclass(frozen=True)
class Pictures:
    """The part of a video that the network looks at: its centre crop, as in the `efficient` protocol."""

    clip: np.ndarray
    """uint8 [T, S, S, 3]: the middle frame of each segment."""
    clip_frames: np.ndarray
    """int64 [T]: their numbers in the video."""
    film: np.ndarray
    """uint8 [F, S, S, 3]: all frames, or every so many of a long video."""
    film_frames: np.ndarray
    """int64 [F], rising."""
    num_frames: int
    """Of the video."""
    fps: float
    """Of the video."""

    @property
    def film_fps(self) -> float:
        """Frames a second at which the film lasts as long as the video, within what an mp4 can state."""
        fps = self.fps * len(self.film_frames) / self.num_frames
        return min(max(fps, 0.1), 1000.0)


def decoder_of(config: DataConfig) -> GuardedDecoder:
    """A child process to decode in, which a video that hangs or kills it takes with it."""
    return GuardedDecoder(ClipSpec.one_clip(config), config.decode_deadline_s, isolated=True)


def read(
    decoder: GuardedDecoder, path: str, config: DataConfig, most_frames: int = MOST_FRAMES
) -> Pictures:
    """Decode what is shown of a video. Raises ``decode.VideoError`` where it cannot be read.

    It may take the deadline of a clip once for its facts, and once for every T frames that are shown.
    """
    info = decoder.call(path, decode.probe, path, limits_of(config))
    clips = 1 + min(info.num_frames, most_frames) / config.num_segments
    return decoder.call(path, read_pictures, path, config, most_frames, info, num_clips=clips)


def read_pictures(
    path: str, config: DataConfig, most_frames: int, info: decode.VideoInfo
) -> Pictures:
    """The same in this process; ``info`` is what was found of the video."""
    with naming_failures(path):
        return _read(path, config, most_frames, info)


def _read(path: str, config: DataConfig, most_frames: int, info: decode.VideoInfo) -> Pictures:
    limits = limits_of(config)
    planned = decode.Geometry(info.num_frames, info.width, info.height)
    centres = sampling.centre_indices(info.num_frames, config.num_segments)
    shown = film_frames(info.num_frames, most_frames)
    box = transforms.centre_box(info.width, info.height)
    indices = np.concatenate([centres, shown]).tolist()
    (frames,) = decode.read_views(
        path, indices, [box], config.size, config.decoder, planned, limits
    )
    return Pictures(
        clip=frames[: len(centres)],
        clip_frames=centres,
        film=frames[len(centres) :],
        film_frames=shown,
        num_frames=info.num_frames,
        fps=info.fps or _FPS_OF_FOLDERS,
    )


def film_frames(num_frames: int, most: int) -> np.ndarray:
    """At most ``most`` frames of a video, evenly spaced: int64, rising, each once."""
    return sampling.centre_indices(num_frames, min(num_frames, most))


def segments_of(frames: np.ndarray, num_frames: int, num_segments: int) -> np.ndarray:
    """The segment in which the middle of each frame lies: int64, 0 to T - 1."""
    return ((frames + 0.5) * num_segments / num_frames).astype(np.int64)


def deal(
    frames: np.ndarray, num_frames: int, num_segments: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal frames out to clips, so that each is seen once, in its own segment.

    Args:
        frames: int64 [F], rising, distinct.
        num_frames: Of the video.
        num_segments: T.

    Returns:
        clips: int64 [M, T], places in ``frames``. A segment with fewer frames than another repeats its last; one
            without any, in a video shorter than T, takes the frame nearest to its middle.
        clip_of: int64 [F], the clip that shows each frame.
        segment_of: int64 [F], and where in it.
    """
    segment_of = segments_of(frames, num_frames, num_segments)
    counts = np.bincount(segment_of, minlength=num_segments)
    starts = np.cumsum(counts) - counts
    clip_of = np.arange(len(frames)) - starts[segment_of]
    steps = np.minimum(np.arange(counts.max())[:, None], np.maximum(counts - 1, 0))
    middles = (np.arange(num_segments) + 0.5) * num_frames / num_segments - 0.5
    nearest = np.abs(frames[None] - middles[:, None]).argmin(1)
    return np.where(counts > 0, starts + steps, nearest), clip_of, segment_of
