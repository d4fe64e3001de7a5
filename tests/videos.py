"""Small videos made for tests: each frame carries its number, so a wrong one gives itself away.

path = write_video(tmp_path / "a.mp4", num_frames=48)
frame_number(read_frames(path, [17])[0])  # 17
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

_FORMATS = {("uint8", 3): "rgb24", ("uint8", 4): "rgba", ("uint16", 3): "rgb48le"}

_TAKES_OVER: tuple[str, ...] = ("libsvtav1",)
"""Encoders that turn a process of root, and all that it starts later, into real-time ones (SCHED_FIFO 99), which starve
the machine. They run in a process of their own."""

_COLUMNS = 6  # bits of the number in the first row of blocks; their complements in the second


def numbered_frame(number: int, width: int = 160, height: int = 96, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: a moving texture under blocks that spell ``number`` (0..4095).

    The upper half holds twelve blocks in two rows: the bits of the number, white for 1; the lower
    half their complements, so that a blend or a damaged picture is not read as another number.
    """
    if not 0 <= number < 4096:
        raise ValueError(f"a frame can carry the numbers 0 to 4095, not {number}")
    y, x = np.mgrid[0:height, 0:width]
    phase = number * 3 + seed * 17
    frame = np.stack(
        [
            128 + 60 * np.sin((x + phase) / 9.0),
            128 + 60 * np.cos((y - phase) / 7.0),
            128 + 60 * np.sin((x + y + 2 * phase) / 13.0),
        ],
        axis=-1,
    ).astype(np.uint8)
    for bit, rows, columns in _blocks(width, height):
        on = bool(number >> (bit % 12) & 1) != (bit >= 12)
        frame[rows, columns] = 255 if on else 0
    return frame


def frames_in_a_palette(num_frames: int = 4) -> list[av.VideoFrame]:
    """160x96 frames of numbers into 256 drawn colours."""
    colours = np.random.default_rng(0).integers(0, 256, (256, 4), dtype=np.uint8)
    colours[:, 0] = 255  # alpha
    numbers = [np.ascontiguousarray(numbered_frame(k)[..., 0]) for k in range(num_frames)]
    return [av.VideoFrame.from_ndarray((drawn, colours), format="pal8") for drawn in numbers]


def translucent_frames(num_frames: int = 4) -> list[np.ndarray]:
    """uint8 [96, 160, 4]: numbered frames that grow opaque from left to right."""
    alpha = np.broadcast_to(np.linspace(0, 255, 160).astype(np.uint8), (96, 160))
    return [np.dstack([numbered_frame(k), alpha]) for k in range(num_frames)]


def deep_frames(num_frames: int = 4) -> list[np.ndarray]:
    """uint16 [96, 160, 3]: noise in all 16 bits."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 65536, (96, 160, 3), dtype=np.uint16) for _ in range(num_frames)]


def frame_number(frame: np.ndarray) -> int:
    """The number drawn into a frame by ``numbered_frame``; -1 if the picture holds none."""
    height, width, _ = frame.shape
    bits = {}
    for bit, rows, columns in _blocks(width, height):
        block = frame[rows, columns].astype(np.float32)
        inner = block[block.shape[0] // 4 : -(block.shape[0] // 4), 1:-1]
        bits[bit] = inner.mean() > 127.5
    if any(bits[bit] == bits[bit + 12] for bit in range(12)):
        return -1
    return sum(1 << bit for bit in range(12) if bits[bit])


def frame_numbers(frames: Iterable[np.ndarray]) -> list[int]:
    """``frame_number`` of each frame."""
    return [frame_number(frame) for frame in frames]


def _blocks(width: int, height: int) -> list[tuple[int, slice, slice]]:
    """(bit, rows, columns) of 24 blocks that leave the frame's border and gaps to the texture."""
    blocks = []
    for bit in range(24):
        row, column = divmod(bit, _COLUMNS)
        top, bottom = height * (2 * row + 1) // 10, height * (2 * row + 2) // 10
        left = width * (4 * column + 1) // (4 * _COLUMNS + 1)
        right = width * (4 * column + 4) // (4 * _COLUMNS + 1)
        blocks.append((bit, slice(top, bottom + height // 20), slice(left, right)))
    return blocks


def write_video(
    path: str | os.PathLike[str] | io.BytesIO,
    *,
    num_frames: int = 48,
    width: int = 160,
    height: int = 96,
    fps: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container: str | None = None,
    times_ms: Sequence[int] | None = None,
    frames: Iterable[np.ndarray | av.VideoFrame] | None = None,
    seed: int = 0,
    audio: bool = False,
) -> Any:
    """Encode numbered frames into a video file and return ``path``.

    Args:
        path: Where to write; its suffix chooses the container unless ``container`` does.
        num_frames: How many frames, numbered from 0.
        width: In pixels.
        height: In pixels.
        fps: Frames a second.
        codec: FFmpeg encoder; the calling test is skipped, with a reason, where PyAV lacks it.
        pix_fmt: Pixel format that is encoded.
        options: Encoder options, such as {"g": "12", "bf": "2"}.
        container_options: Muxer options, such as {"movflags": "+faststart"}.
        container: FFmpeg's name of the muxer.
        times_ms: Presentation time of each frame, for variable frame rates.
        frames: Pictures instead of numbered ones: uint8 [height, width, 3] RGB or [height, width, 4]
            RGBA, or uint16 [height, width, 3] RGB; or whole frames of PyAV, stored as they are.
        seed: Changes the texture under the numbers.
        audio: Add a second of silence as a second stream.
    """
    recipe = {name: value for name, value in locals().items() if name not in ("path", "frames")}
    need_encoder(codec)
    if codec in _TAKES_OVER:
        assert frames is None, f"{codec} encodes numbered frames alone"
        _write_in_a_child(os.fspath(path), recipe)
        return path
    target = path if isinstance(path, io.BytesIO) else os.fspath(path)
    if frames is None:
        frames = (numbered_frame(k, width, height, seed) for k in range(num_frames))
    with av.open(target, "w", format=container, options=container_options or {}) as output:
        stream = output.add_stream(codec, rate=fps, options=dict(options or {}))
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        silence = output.add_stream("aac", rate=16000) if audio else None
        for k, picture in enumerate(frames):
            frame = picture if isinstance(picture, av.VideoFrame) else _as_frame(picture)
            if not k:
                stream.height, stream.width = frame.height, frame.width
            if times_ms is None:
                frame.pts, frame.time_base = k, Fraction(1, fps)
            else:
                frame.pts, frame.time_base = times_ms[k], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if silence is not None:
            _write_silence(output, silence)
    return path


def _write_in_a_child(path: str, recipe: dict[str, Any]) -> None:
    code = "import json, sys, videos; path, recipe = json.load(sys.stdin); "
    code += "videos._TAKES_OVER = (); videos.write_video(path, **recipe)"
    subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([path, recipe]),
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )


def _as_frame(picture: np.ndarray) -> av.VideoFrame:
    form = _FORMATS[picture.dtype.name, picture.shape[2]]
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=form)


def frame_of_planes(planes: Sequence[np.ndarray], pix_fmt: str) -> av.VideoFrame:
    """A frame of exactly these samples: one uint8 or uint16 [height, width] array a plane."""
    height, width = planes[0].shape
    frame = av.VideoFrame(width, height, pix_fmt)
    for plane, samples in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        data = np.ascontiguousarray(samples).view(np.uint8)
        rows[:, : data.shape[1]] = data
        plane.update(rows.tobytes())
    return frame


def frames_as_ffmpeg_shows(path: str | os.PathLike[str]) -> np.ndarray:
    """uint8 [K, height, width, 3]: everything decoded from the start, and converted by FFmpeg's `scale`
    filter as the ``ffmpeg`` command sets it up; not turned."""
    frames: list[np.ndarray] = []
    with av.open(os.fspath(path)) as container:
        stream = max(container.streams.video, key=_ranked)
        stream.codec_context.flags |= av.codec.context.Flags.unaligned  # crop on the left, too
        graph, kind = None, None
        for frame in container.decode(stream):
            if graph is None or kind != (frame.width, frame.height):
                kind = frame.width, frame.height
                height, width = frames[0].shape[:2] if frames else (frame.height, frame.width)
                graph = av.filter.Graph()
                nodes = [
                    graph.add_buffer(
                        width=frame.width,
                        height=frame.height,
                        format=frame.format,
                        time_base=stream.time_base,
                    ),
                    graph.add("scale", f"{width}:{height}:flags=bicubic"),
                    graph.add("format", "rgb24"),
                    graph.add("buffersink"),
                ]
                graph.link_nodes(*nodes).configure()
            graph.push(frame)
            frames.append(graph.pull().to_ndarray())
    return np.stack(frames)


def _ranked(stream: Any) -> tuple[bool, bool, int]:
    """FFmpeg's rule: no cover picture, the default one, the one of the most pixels, the first."""
    disposition = stream.disposition
    return (
        not disposition & av.stream.Disposition.attached_pic,
        bool(disposition & av.stream.Disposition.default),
        stream.codec_context.width * stream.codec_context.height,
    )


def write_audio(path: str | os.PathLike[str]) -> Any:
    """A file with an audio stream and no video; returns ``path``."""
    with av.open(os.fspath(path), "w") as output:
        _write_silence(output, output.add_stream("aac", rate=16000))
    return path


def _write_silence(output: Any, stream: Any, num_samples: int = 16384) -> None:
    for start in range(0, num_samples, 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def write_frame_folder(
    path: Path, *, num_frames: int = 24, width: int = 160, height: int = 96, first: int = 1
) -> Path:
    """A folder of JPEG frames 00001.jpg, 00002.jpg, ..., as Something-Something is published."""
    path.mkdir(parents=True, exist_ok=True)
    for k in range(num_frames):
        write_jpeg(path / f"{k + first:05d}.jpg", numbered_frame(k, width, height))
    return path


def write_jpeg(path: Path, picture: np.ndarray) -> Path:
    """One picture, uint8 [height, width, 3], as a JPEG file."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt = "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qmin": "2", "qmax": "2"}
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    frame.pts = 0
    packets = encoder.encode(frame) + encoder.encode(None)
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    return path


def cut_by_copying_packets(
    source: str | os.PathLike[str], target: str | os.PathLike[str], start: int
) -> Any:
    """Cut like ``ffmpeg -ss -c copy``: an edit list hides the frames between the key and ``start``.

    Args:
        source: A video whose frames are numbered from 0.
        target: The mp4 to write.
        start: Number of the first frame that the cut shows.
    """
    with av.open(os.fspath(source)) as cut_from, av.open(os.fspath(target), "w") as output:
        stream = cut_from.streams.video[0]
        copy = output.add_stream_from_template(stream)
        packets = [packet for packet in cut_from.demux(stream) if packet.size]
        first = sorted(packet.pts for packet in packets)[start]
        keys = [p.dts for p in packets if p.is_keyframe and p.pts <= first]
        for packet in packets:
            if packet.dts >= keys[-1]:
                packet.pts -= first
                packet.dts -= first
                packet.stream = copy
                output.mux(packet)
    return target


def rewrite_packets(
    source: str | os.PathLike[str], target: str | os.PathLike[str], bitstream_filter: str = "null"
) -> Any:
    """Copy a video's packets into another file, through a bitstream filter; returns ``target``.

    Args:
        source: A video.
        target: The file to write; its suffix chooses the container.
        bitstream_filter: FFmpeg's name and options, such as "h264_metadata=crop_left=16".
    """
    with av.open(os.fspath(source)) as copy_from, av.open(os.fspath(target), "w") as output:
        stream = copy_from.streams.video[0]
        copy = output.add_stream_from_template(stream)
        rewrite = av.bitstream.BitStreamFilterContext(bitstream_filter, stream, copy)
        packets = [packet for packet in copy_from.demux(stream) if packet.size]
        for packet in [*packets, None]:
            for rewritten in rewrite.filter(packet):
                rewritten.stream = copy
                output.mux(rewritten)
    return target


def write_streams(
    path: str | os.PathLike[str], videos: Sequence[tuple[str | os.PathLike[str], str]]
) -> Any:
    """Put the video streams of several files into one; returns ``path``.

    Args:
        path: The file to write.
        videos: (file, disposition) of each stream in order, such as ("a.mp4", "default"),
            ("b.mp4", "") or ("cover.avi", "attached_pic").
    """
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(av.open(os.fspath(path), "w"))
        packets = []
        for source, disposition in videos:
            stream = stack.enter_context(av.open(os.fspath(source))).streams.video[0]
            copy = output.add_stream_from_template(stream)
            copy.disposition = av.stream.Disposition[disposition] if disposition else 0
            packets += [
                (p.dts * p.time_base, p, copy) for p in stream.container.demux(stream) if p.size
            ]
        for _, packet, copy in sorted(packets, key=lambda found: found[0]):
            packet.stream = copy
            output.mux(packet)
    return path


def set_display_matrix(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Set the display matrix in the track header of an mp4: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    at = header + (52 if data[header] else 40)  # version 1 has 64-bit times
    a, b, c, d = (round(value * 65536) for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def need_encoder(codec: str) -> None:
    """Skip the calling test where PyAV was built without an encoder."""
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec} encoder")
    try:
        av.codec.Codec(codec, "w")
    except Exception as error:
        pytest.skip(f"PyAV cannot encode {codec}: {error}")
