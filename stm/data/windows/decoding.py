"""Decode a source sequentially into windows; this runs in the child process of ``reader``.

    packets -> frames in display order -> times -> RGB, cropped and resized -> windows

The video's time stamps decide when a frame appears. If they are missing or unreliable (pictures stored out of display
order in a container without presentation times), frames are counted at the rate that the file states.

Frames that are damaged or refer to damage are detected. A window whose clip needs such a frame has no clips, as in
``stm predict``; the next windows resume after the next key frame.
"""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av.error
import numpy as np

from stm.data.decode import VideoError, ffv1
from stm.data.decode.memory import limit_memory
from stm.data.decode.orientation import states_orientation
from stm.data.decode.pictures import UPRIGHT, Matrix, RgbConverter, display_matrix
from stm.data.decode.plan import MOST_REORDERED, stores_times
from stm.data.decode.resize import PixelBox, pixel_box, resize_clip
from stm.data.decode.source import Stream, open_video
from stm.data.stream.clips import ClipSpec, boxes_of_test
from stm.data.video import naming_failures
from stm.data.windows.cutting import Cutter, Picture, Window
from stm.data.windows.damage import Damage

_LEFT_OUT = "skipped: left out, as decoding cannot keep up with the stream"
_DAMAGED = "unreadable: a frame that its clip needs is damaged or missing"
_CRASHED = "crashed: the decoder dies or hangs at a packet in it"

_MOST_FAILURES = 16
"""Consecutive read failures after which the source counts as ended."""
_BEHIND_S = 5.0
"""Maximum delay of decoding behind a stream; beyond it, packets are skipped until it has caught up."""
_DRIFT = 1e-3
"""Relative rate by which a camera's clock may differ from this machine's."""
_MOST_WAITING_BYTES = 64 * 2**20
"""Maximum bytes of packets after a key frame that wait to be decoded."""
_MOST_KEPT_BYTES = 256 * 2**20
"""Maximum bytes of a window's decoded frames. Up to this size, only frames that a clip needs are converted to RGB."""
_NEAR_S = 60
"""The time of an undecodable packet is ignored if it is farther than this from the times of others."""
_RATE = Fraction(25)
"""Frames per second of a source that states no rate."""

Place = tuple[int | None, int | None]
"""A packet's decoding time and position in the file, which identify it."""


@dataclass(frozen=True)
class Known:
    """Facts from the first frame, for a decoder that starts later in the same source."""

    origin: int
    """Presentation time of the first frame, in ticks."""
    width: int
    height: int
    """Height of the first frame, as displayed."""
    matrix: Matrix | None
    """Orientation of all frames as stated by the stream; None if each frame has its own."""
    has_times: bool = True
    """Whether the time of a frame follows from its packet alone; if not, all earlier frames must be decoded too."""


@dataclass(frozen=True)
class Job:
    """The source to decode and where to start."""

    source: Any
    spec: ClipSpec
    window_s: float
    stride_s: float
    stream: Stream | None = None
    """None for a file."""
    first: int = 0
    """Number of the first wanted window."""
    known: Known | None = None
    """Facts of a file that was opened before."""
    offset_s: float = 0.0
    """Time of the first frame on the clock of the windows."""
    avoided: frozenset[Place] = frozenset()
    """Packets right after these places are not decoded, because they crashed the decoder."""


@dataclass
class Batch:
    """The result of one call."""

    windows: list[Window] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    known: Known | None = None
    place: Place = (None, None)
    """Place of the packet before the next one to decode."""
    reached_s: float = 0.0
    """Time of the latest frame seen."""
    num_live: int = 0
    """Maximum number of frames held."""
    num_decoded: int = 0
    """Frames decoded in this process."""
    ended: bool = False
    broke: str = ""
    """Why the stream broke off."""


_decoding: Decoding | None = None


def begin(job: Job) -> None:
    """Open the source in this process. Raises ``VideoError``."""
    global _decoding
    _decoding = None
    limit_memory(job.spec.limits.memory_bytes)
    _decoding = Decoding(job)


def go_on(budget_s: float) -> Batch:
    """Decode until a window is complete, the source ends, or ``budget_s`` have passed. Raises ``VideoError``."""
    assert _decoding is not None, "begin() comes first"
    return _decoding.go_on(budget_s)


class Decoding:
    """One open source."""

    def __init__(self, job: Job) -> None:
        self._job, self._known = job, job.known
        self._stack = ExitStack()
        with naming_failures(job.source):
            self._video = self._stack.enter_context(
                open_video(job.source, job.spec.limits.max_pixels, job.stream)
            )
            context, stream = self._video.context, self._video.stream
            self._time_base = Fraction(stream.time_base)
            rate = stream.average_rate or stream.guessed_rate or _RATE
            self._interval = max(1, round(1 / (rate * self._time_base)))
            self._counts = context.has_b_frames and not stores_times(self._video.container)
            self._cutter = Cutter(
                job.spec,
                job.window_s,
                job.stride_s,
                self._time_base,
                offset_s=job.offset_s,
                first=job.first,
            )
        self._to_rgb: RgbConverter | None = None
        self._boxes: list[PixelBox] = []
        self._keeps_frames = False
        self._states_orientation = False
        self._has_checksums = False
        self._num_packets = 0
        self._orders: dict[int, int] = {}
        self._damage = Damage()
        self._pending: list[tuple[int, int, int | None, Picture | None]] = []
        self._last_raw: int | None = None
        self._last_ticks: int | None = None
        self._pushed_ticks = -1
        self._shift = 0
        self._batch, self._broke = Batch(), ""
        self._num_decoded = self._num_live = 0
        self._place: Place = (None, None)
        self._steps = self._run()

    def go_on(self, budget_s: float) -> Batch:
        self._batch = Batch()
        until = time.monotonic() + budget_s
        with naming_failures(self._job.source):
            for _ in self._steps:
                if self._batch.windows or time.monotonic() >= until:
                    break
            else:
                self._batch.ended, self._batch.broke = True, self._broke
                self._stack.close()
        batch = self._batch
        if self._known is not None:
            batch.known = replace(self._known, has_times=not self._shift and not self._counts)
        batch.place = self._place
        batch.num_live, batch.num_decoded = self._num_live, self._num_decoded
        ticks = self._last_ticks or 0
        batch.reached_s = self._job.offset_s + float(ticks * self._time_base)
        return batch

    # ------------------------------------------------------------------ packets

    def _run(self) -> Iterator[None]:
        """Yield before every packet; then flush the decoder and finish the windows that the end cuts short."""
        for packet, before, dropped in self._chosen():
            self._place = before
            yield
            if dropped:
                self._lose(packet, dropped)
            else:
                self._decode(packet)
        self._decode(None)
        self._settle(0)
        if self._known is None:
            raise VideoError(
                self._video.name, "no_frames", self._broke or "no frame can be decoded"
            )
        self._batch.windows += self._cutter.finish()

    def _chosen(self) -> Iterator[tuple[Any, Place, str]]:
        """Each useful packet, the place of the one before it, and the reason not to decode it, or ""."""
        dropped, lag = "", _Lag() if self._job.stream is not None else None
        for packet, before in self._from_where_it_matters():
            if before in self._job.avoided:
                dropped = _CRASHED
            elif dropped == _CRASHED and packet.is_keyframe:
                dropped = ""
            if lag is not None and packet.pts is not None:
                behind_s = lag.of(float(packet.pts * self._time_base), time.monotonic())
                if not dropped and behind_s > _BEHIND_S:
                    dropped = _LEFT_OUT
                    said = "frames are left out until it has caught up"
                    self._note(f"decoding is {behind_s:.0f} s behind the stream: {said}")
                elif dropped == _LEFT_OUT and packet.is_keyframe and behind_s < _BEHIND_S / 2:
                    dropped = ""
            yield packet, before, dropped

    def _from_where_it_matters(self) -> Iterator[tuple[Any, Place]]:
        """The packets from the last key frame before the first wanted window, each with the place before it."""
        packets = self._packets()
        if self._known is None or not self._known.has_times or not self._job.first:
            yield from packets
            return
        start = Fraction(str(self._job.stride_s)) * self._job.first / self._time_base
        wanted_pts = self._known.origin + start
        waiting: list[tuple[Any, Place]] = []
        num_bytes = 0
        for packet, before in packets:
            is_early = packet.pts is not None and packet.pts <= wanted_pts
            if packet.is_keyframe and is_early:
                waiting.clear()
                num_bytes = 0
            waiting.append((packet, before))
            num_bytes += packet.size
            if not is_early or num_bytes > _MOST_WAITING_BYTES:
                break
        yield from waiting
        yield from packets

    def _packets(self) -> Iterator[tuple[Any, Place]]:
        """The packets that hold data, except a truncated last one, whose picture is missing."""
        held, before = None, (None, None)
        for packet in self._demuxed():
            if held is not None:
                yield held, before
                before = (held.dts, held.pos)
            held = packet
        if held is not None and not held.is_corrupt:
            yield held, before

    def _demuxed(self) -> Iterator[Any]:
        """The packets from FFmpeg. A read failure is recorded, and reading continues if possible."""
        failures = 0
        while True:
            try:
                for packet in self._video.container.demux(self._video.stream):
                    if packet.size:
                        failures = 0
                        yield packet
                return
            except IndexError:  # PyAV raises it at the end if a stream appeared midway
                return
            except av.error.MemoryError:
                raise
            except av.error.FFmpegError as error:
                if self._job.stream is not None:
                    self._broke = _why_broken(error, self._job.stream)
                    return
                failures += 1
                self._note(f"reading it fails ({error.strerror})")
                if failures > _MOST_FAILURES:
                    return

    # ------------------------------------------------------------------ frames

    def _decode(self, packet: Any) -> None:
        context = self._video.context
        order = self._num_packets
        if packet is not None:
            self._num_packets += 1
            if not order:
                self._look_at_first(packet)
            if self._has_checksums and not ffv1.is_whole(bytes(packet)):
                self._lose(packet, _DAMAGED, order)
                return
            if packet.pts is not None:
                self._orders[packet.pts] = order
        try:
            frames = context.decode(packet)
        except av.error.MemoryError:
            raise
        except av.error.FFmpegError:
            if packet is not None:
                self._lose(packet, _DAMAGED, order)
            return
        for frame in frames:
            self._take(frame)

    def _look_at_first(self, packet: Any) -> None:
        context = self._video.context
        self._states_orientation = states_orientation(
            context.name, context.extradata or b"", bytes(packet)
        )
        self._has_checksums = context.name == "ffv1" and ffv1.is_whole(bytes(packet))

    def _lose(self, packet: Any, why: str, order: int | None = None) -> None:
        """Record that a packet gives no picture, so the frame of its time is missing."""
        if order is None:
            order = self._num_packets
            self._num_packets += 1
        self._hurt(order, packet.pts, why)
        if packet.pts is None or self._known is None or self._counts:
            return
        ticks = packet.pts - self._known.origin + self._shift
        latest = max([self._last_ticks or 0, *(each[0] for each in self._pending[-1:])])
        if self._pushed_ticks < ticks < latest + _NEAR_S / self._time_base:
            self._wait(ticks, order, packet.pts, why)
            self._settle(2 * MOST_REORDERED)

    def _hurt(self, order: int, pts: int | None, why: str) -> None:
        if why == _DAMAGED and not self._damage.has_reached(order, pts):
            at = "" if pts is None or self._known is None else f" at {self._clock(pts)}"
            self._note(f"damage{at}: frames from there to the next key frame are left out")
        self._damage.add(order, pts)

    def _take(self, frame: Any) -> None:
        self._num_decoded += 1
        order = self._num_packets
        if frame.pts is not None:
            order = self._orders.pop(frame.pts, order)
        for old in list(self._orders)[:-256]:
            del self._orders[old]
        if self._known is None or self._to_rgb is None:
            self._look_at_first_frame(frame)
        assert self._known is not None
        if self._known.matrix is not None:
            matrix = display_matrix(frame)
            if matrix not in (UPRIGHT, self._known.matrix):
                detail = "its frames have different orientations"
                raise VideoError(self._video.name, "unreadable", detail)
        ticks = self._ticks_of(frame)
        if frame.key_frame and frame.pts is not None:
            self._damage.key(order, frame.pts)
        picture: Picture | None = None
        if frame.is_corrupt:
            self._hurt(order, frame.pts, _DAMAGED)
            picture = _DAMAGED
        elif self._cutter.wants(ticks):
            picture = _Views(self._views, frame)
            if not self._keeps_frames:
                picture()
        self._wait(ticks, order, frame.pts, picture)
        # A reference may come out after the pictures that refer to it, so its damage may be known only then.
        self._settle(MOST_REORDERED if self._video.context.has_b_frames else 0)

    def _look_at_first_frame(self, frame: Any) -> None:
        matrix = self._known.matrix if self._known is not None else None
        if self._known is None and self._states_orientation:
            matrix = display_matrix(frame)
        self._to_rgb = RgbConverter(self._video.name, self._video.width, self._video.height, matrix)
        if self._known is None:
            height, width, _ = self._to_rgb(frame).shape
            self._known = Known(frame.pts or 0, width, height, matrix)
        num_bytes = sum(plane.buffer_size for plane in frame.planes)
        num_frames = self._job.window_s / float(self._interval * self._time_base)
        self._keeps_frames = num_bytes * num_frames <= _MOST_KEPT_BYTES
        spec, known = self._job.spec, self._known
        self._boxes = [
            pixel_box(box, known.width, known.height)
            for box in boxes_of_test(known.width, known.height, spec)
        ]

    def _ticks_of(self, frame: Any) -> int:
        """Time of a frame in ticks from the first one; always later than the frame before."""
        last, raw = self._last_ticks, frame.pts
        if last is None and (raw is None or self._counts):
            ticks = 0
        elif raw is None or self._counts:
            assert last is not None
            ticks = last + self._interval
        else:
            assert self._known is not None
            if last is not None and self._last_raw is None:  # frames without a time came before
                self._shift = last + self._interval - (raw - self._known.origin)
            ticks = raw - self._known.origin + self._shift
            if last is not None and ticks <= last:
                if last - ticks > MOST_REORDERED * self._interval:
                    self._note("its time stamps jump back: time is counted on from there")
                    self._shift += last + self._interval - ticks
                    ticks = last + self._interval
                else:
                    ticks = last + 1
            self._last_raw = raw
        self._last_ticks = ticks
        return ticks

    def _views(self, frame: Any) -> np.ndarray:
        """uint8 [V, S, S, 3] of a frame."""
        assert self._to_rgb is not None
        pixels = self._to_rgb(frame)
        views = [
            resize_clip(pixels[None, y0:y1, x0:x1], self._job.spec.size)[0]
            for x0, y0, x1, y1 in self._boxes
        ]
        return np.stack(views)

    def _wait(self, ticks: int, order: int, pts: int | None, picture: Picture | None) -> None:
        insort(self._pending, (ticks, order, pts, picture), key=lambda each: each[:2])

    def _settle(self, num_waiting: int) -> None:
        """Pass on the frames whose damage is finally known."""
        while len(self._pending) > num_waiting:
            ticks, order, pts, picture = self._pending.pop(0)
            if ticks <= self._pushed_ticks:
                continue
            self._pushed_ticks = ticks
            if callable(picture) and self._damage.has_reached(order, pts):
                picture = _DAMAGED
            self._batch.windows += self._cutter.push(
                ticks, _DAMAGED if picture is None else picture
            )
            self._num_live = max(self._num_live, len(self._cutter) + len(self._pending))

    # ------------------------------------------------------------------ words

    def _clock(self, pts: int) -> str:
        assert self._known is not None
        ticks = pts - self._known.origin + self._shift
        return clock(self._job.offset_s + float(ticks * self._time_base))

    def _note(self, text: str) -> None:
        self._batch.notes.append(text)


class _Views:
    """The views of a frame, computed at first use; the frame itself is then released."""

    def __init__(self, make: Callable[[Any], np.ndarray], frame: Any) -> None:
        self._make, self._frame = make, frame
        self._made: np.ndarray | None = None

    def __call__(self) -> np.ndarray:
        if self._made is None:
            self._made, self._frame = self._make(self._frame), None
        return self._made


class _Lag:
    """Delay of the stream behind the clock, relative to the smallest delay seen."""

    def __init__(self) -> None:
        self._best: float | None = None
        self._asked_at = 0.0

    def of(self, stream_s: float, now_s: float) -> float:
        """Delay in seconds; ``stream_s`` is the time of the packet, ``now_s`` that of a clock."""
        late = now_s - stream_s
        if self._best is None:
            self._best = late
        else:
            self._best = min(late, self._best + _DRIFT * (now_s - self._asked_at))
        self._asked_at = now_s
        return late - self._best


def _why_broken(error: av.error.FFmpegError, stream: Stream) -> str:
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return f"nothing came for {stream.stall_s:g} s"
    return str(error.strerror)


def clock(seconds: float) -> str:
    """Format seconds as ``1:02:03.4``."""
    tenths = round(seconds * 10)
    whole, tenth = divmod(tenths, 10)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}.{tenth}"
