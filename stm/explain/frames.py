"""Choose the frames of a video that are shown, and the clips in which the network computes them.

The network sees T frames of a video, one from each segment, but a film shows all frames. So the frames are distributed
over clips: clip j has the j-th frame of every segment. Each frame is then computed once in its own segment, as in
training and in the 30-view protocol, and no map is blended from others. If the network sees windows (``data.sampling``
dense or seconds), the video is divided into about as many windows as fit, and each is treated in this way.
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
"""The film of a longer video has this many frames, evenly spaced."""


@dataclass(frozen=True)
class Pictures:
    """The part of a video that the network looks at: its centre crop, as in the `efficient` protocol."""

    clip: np.ndarray
    """uint8 [T, S, S, 3]: the middle frame of each segment, or the frames of the middle window."""
    clip_frames: np.ndarray
    """int64 [T]: numbers of these frames in the video."""
    film: np.ndarray
    """uint8 [F, S, S, 3]: all frames of the video, or evenly spaced ones of a long video."""
    film_frames: np.ndarray
    """int64 [F]: numbers of these frames in the video, rising."""
    num_frames: int
    """Number of frames of the video."""
    fps: float
    """Frames per second of the video."""
    num_windows: int = 1
    """Number of windows over which the film's frames are distributed."""

    @property
    def film_fps(self) -> float:
        """Frames per second at which the film lasts as long as the video, limited to 0.1 .. 1000 for mp4."""
        fps = self.fps * len(self.film_frames) / self.num_frames
        return min(max(fps, 0.1), 1000.0)


def decoder_of(config: DataConfig) -> GuardedDecoder:
    """Return a decoder in a child process, so that a video that hangs or crashes ends only that process."""
    return GuardedDecoder(ClipSpec.one_clip(config), config.decode_deadline_s, isolated=True)


def read(
    decoder: GuardedDecoder, path: str, config: DataConfig, most_frames: int = MOST_FRAMES
) -> Pictures:
    """Decode the frames of a video that are shown; ``decode.VideoError`` if it cannot be read.

    Reading the facts of the video has the deadline of one clip, and decoding that of one clip for every T frames.
    """
    info = decoder.call(path, decode.probe, path, limits_of(config))
    clips = 1 + min(info.num_frames, most_frames) / config.num_segments
    return decoder.call(path, read_pictures, path, config, most_frames, info, num_clips=clips)


def read_pictures(
    path: str, config: DataConfig, most_frames: int, info: decode.VideoInfo
) -> Pictures:
    """Decode as ``read`` does, in this process. ``info`` has the facts of the video."""
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
    """Return the numbers of at most ``most`` evenly spaced frames: int64, rising, distinct."""
    return sampling.centre_indices(num_frames, min(num_frames, most))


def segments_of(frames: np.ndarray, num_frames: int, num_segments: int) -> np.ndarray:
    """Return the segment that contains the middle of each frame: int64, 0 to T - 1."""
    return ((frames + 0.5) * num_segments / num_frames).astype(np.int64)


def deal(
    frames: np.ndarray, num_frames: int, num_segments: int, num_windows: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distribute frames over clips, so that each frame is computed once, in its own segment.

    Args:
        frames: int64 [F], rising, distinct.
        num_frames: Number of frames of the video.
        num_segments: T.
        num_windows: Number of equal parts of the video, each with its own clips and T segments.

    Returns:
        clips: int64 [M, T], indices of ``frames``. A segment with fewer frames than another repeats its last one. A
            segment without frames, in a video shorter than T, has the frame nearest to its middle.
        clip_of: int64 [F], the clip of each frame.
        segment_of: int64 [F], the segment of each frame in that clip.
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
