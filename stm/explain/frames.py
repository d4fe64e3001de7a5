"""Which frames of a video are shown, and which clip tells what the network sees in each of them.

The network sees T frames of a video, one of each segment. A film shows all of them, so its frames are dealt out to
clips: clip j takes the j-th frame of every segment. Each frame is then seen once in its own segment, as training and
the 30-view protocol see it, and no map is blended from others. Where the network sees windows (``data.sampling`` dense,
seconds), the video is cut into as many as fit, about, and each of them is dealt out so.
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
    num_windows: int = 1
    """Windows that the film's frames are dealt out in."""

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
    spec = ClipSpec.one_clip(config)
    fps = info.fps or spec.folder_fps
    planned = decode.Geometry(info.num_frames, info.width, info.height, spec.rate(info.fps))
    shown = film_frames(info.num_frames, most_frames)
    clip_frames = np.empty(0, np.int64)

    def choose(times_s: np.ndarray) -> np.ndarray:
        nonlocal clip_frames
        chosen = spec.window(info.num_frames)
        clip_frames = np.asarray(chosen(times_s) if callable(chosen) else chosen)
        return np.concatenate([clip_frames, shown])

    box = transforms.centre_box(info.width, info.height)
    (frames,) = decode.read_views(
        path, choose, [box], config.size, config.decoder, planned, spec.limits
    )
    num_frames = {
        "segments": info.num_frames,
        "dense": spec.num_segments * spec.frame_stride,
        "seconds": spec.window_s * fps,
    }[spec.sampling]
    return Pictures(
        clip=frames[: len(clip_frames)],
        clip_frames=clip_frames,
        film=frames[len(clip_frames) :],
        film_frames=shown,
        num_frames=info.num_frames,
        fps=fps,
        num_windows=max(1, round(info.num_frames / num_frames)),
    )


def film_frames(num_frames: int, most: int) -> np.ndarray:
    """At most ``most`` frames of a video, evenly spaced: int64, rising, each once."""
    return sampling.centre_indices(num_frames, min(num_frames, most))


def segments_of(frames: np.ndarray, num_frames: int, num_segments: int) -> np.ndarray:
    """The segment in which the middle of each frame lies: int64, 0 to T - 1."""
    return ((frames + 0.5) * num_segments / num_frames).astype(np.int64)


def deal(
    frames: np.ndarray, num_frames: int, num_segments: int, num_windows: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deal frames out to clips, so that each is seen once, in its own segment.

    Args:
        frames: int64 [F], rising, distinct.
        num_frames: Of the video.
        num_segments: T.
        num_windows: Equal parts of the video, each with clips and T segments of its own.

    Returns:
        clips: int64 [M, T], places in ``frames``. A segment with fewer frames than another repeats its last; one
            without any, in a video shorter than T, takes the frame nearest to its middle.
        clip_of: int64 [F], the clip that shows each frame.
        segment_of: int64 [F], and where in it.
    """
    shape = (num_windows, num_segments)
    segment_of = segments_of(frames, num_frames, num_windows * num_segments)
    counts = np.bincount(segment_of, minlength=num_windows * num_segments)
    starts = np.cumsum(counts) - counts
    middles = (np.arange(len(counts)) + 0.5) * num_frames / len(counts) - 0.5
    nearest = np.abs(frames[None] - middles[:, None]).argmin(1)
    clips_in_window = np.maximum(counts.reshape(shape).max(1), 1)
    first_clip = np.cumsum(clips_in_window) - clips_in_window
    clips = []
    for segments in np.arange(len(counts)).reshape(shape):
        steps = np.arange(max(counts[segments].max(), 1))[:, None]
        dealt = starts[segments] + np.minimum(steps, np.maximum(counts[segments] - 1, 0))
        clips.append(np.where(counts[segments] > 0, dealt, nearest[segments]))
    clip_of = first_clip[segment_of // num_segments] + np.arange(len(frames)) - starts[segment_of]
    return np.concatenate(clips), clip_of, segment_of % num_segments
