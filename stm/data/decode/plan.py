"""The packet plan: it maps frame numbers to packets before anything is decoded.

The number of a frame is the rank of its packet's presentation time among the packets that are not
flagged discard. This is exact for edit lists, variable frame rates and open GOPs, and gives the true
length. If presentation times are unreliable, ``PacketPlan.doubt`` gives the reason, and all frames
must be decoded sequentially and counted.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

import av.error
import numpy as np
from numpy.typing import NDArray

from stm.data.decode import ffv1, hevc, mpeg4
from stm.data.decode.pictures import UPRIGHT, Matrix, display_matrix
from stm.data.decode.source import OpenVideo, open_video
from stm.data.video import VideoError

# Packets of larger files are not kept but demuxed again, to bound memory.
KEEP_BYTES = 64 * 2**20

# Containers that store the presentation time of each picture. For others FFmpeg guesses it, which is
# reliable only if pictures are stored in display order.
_STORES_PRESENTATION_TIME = frozenset(
    ["mov", "mp4", "matroska", "webm", "mpegts", "mpeg", "flv", "ogg", "nut", "gif", "ivf", "apng"]
)

# Containers from which decord returned the right frames in tests. It returned wrong frames from
# MPEG-TS and ASF (WMV). Other containers were not tested.
_DECORD_READS = frozenset(["mov", "mp4", "matroska", "webm", "avi", "flv"])

# The largest distance between a picture's places in storage and in display order (H.264 and HEVC hold
# back at most 16 pictures). A larger one means a damaged time, which would shift all later numbers.
MOST_REORDERED = 16

# Containers in which the two fields of an interlaced picture may be separate packets.
_FIELD_PACKETS = frozenset(["mpegts", "mpeg", "h264", "mpegvideo"])

# How much of the first packet is kept: it may state the video's orientation (orientation.py).
_HEAD_BYTES = 4096

# If none of the first FFV1 packets has right checksums, the stream has no checksums.
_PACKETS_TRIED = 64

# Decoders that can skip pictures that no other picture refers to, without changing the others. AV1 is
# left out because libdav1d then loses frames.
_CAN_SKIP_UNREFERENCED = frozenset(["h264", "hevc", "mpeg4", "mpeg2video"])


@dataclass(frozen=True)
class Run:
    """Packets to decode together: from a key packet to the last wanted frame that needs it."""

    start: int
    stop: int
    """Positions in file order, from ``start`` up to ``stop``, which is not included."""
    frames: dict[int, int]
    """Position of each wanted packet in the run -> the number of the frame it shows."""


@dataclass
class PacketPlan:
    """The packets of one video stream in file order, and the frame that each packet shows."""

    video: OpenVideo
    pts: list[int | None]
    """Presentation time of each packet, in file order, in the stream's time base."""
    keys: list[int]
    """Positions, in file order, of the packets that decoding can start from."""
    shown: list[int]
    """Positions of the packets that show a frame, in display order: ``shown[k]`` shows frame k."""
    packets: list[Any] = field(default_factory=list)
    """PyAV packets in file order; empty if the file was too large to keep them."""
    head: bytes = b""
    """The first bytes of the first packet."""
    doubt: str = ""
    """Why frame numbers cannot be known without decoding; empty if they are exact."""
    guard: str = ""
    """Why decord cannot be trusted with this file; empty if it can."""
    can_skip: bool = False
    """Whether pictures that no other picture refers to may be left undecoded."""
    matrix: Matrix | None = None
    """Orientation of all frames, if the stream states it (orientation.py)."""
    has_checksums: bool = False
    """Whether packets have checksums (FFV1)."""
    may_hold_fields: bool = False
    """Whether a packet of an interlaced picture may hold only one of its two fields."""

    @property
    def num_frames(self) -> int:
        """The true length, or an estimate if there is doubt."""
        return len(self.shown)

    @property
    def keyframe_interval(self) -> int:
        """The largest number of packets from one key packet to the next."""
        return max((b - a for a, b in pairwise([*self.keys, len(self.pts)])), default=0)

    def times_s(self) -> NDArray[np.float64]:
        """Return the time of each frame in s after the first: float64 [N]. Valid only without doubt."""
        ticks = np.array([self.pts[position] for position in self.shown], dtype=np.int64)
        return (ticks - ticks[0]) * float(self.video.stream.time_base)

    def frame_of_pts(self) -> dict[int, int]:
        """Return presentation time -> frame number. Valid only without doubt."""
        return {self.pts[position]: k for k, position in enumerate(self.shown)}  # type: ignore[misc]

    def runs(self, wanted: Sequence[int]) -> list[Run]:
        """Return the runs that contain the wanted frames. Overlapping runs are merged."""
        grouped: dict[int, dict[int, int]] = {}
        for k in wanted:
            position = self.shown[k]
            nearest = bisect_right(self.keys, position) - 1
            # A leading picture is stored after a key packet, but is shown and refers back before it.
            while self.pts[self.keys[nearest]] > self.pts[position]:  # type: ignore[operator]
                nearest -= 1
            grouped.setdefault(self.keys[nearest], {})[position] = k
        runs: list[Run] = []
        for start, frames in sorted(grouped.items()):
            if runs and start < runs[-1].stop:  # a leading picture's run overlaps this one
                start, frames = runs[-1].start, {**runs[-1].frames, **frames}
                runs.pop()
            runs.append(Run(start, max(frames) + 1, frames))
        return runs

    def is_damaged(self, packet: Any) -> bool:
        """Return whether the packet's checksums are wrong: its decoder may then show an earlier picture."""
        return self.has_checksums and not ffv1.is_whole(bytes(packet))

    def check_orientation(self, frame: Any) -> None:
        """Raise ``VideoError`` if a frame's orientation differs from the one that the stream states."""
        if self.matrix is not None and display_matrix(frame) not in (UPRIGHT, self.matrix):
            detail = "its frames have different orientations"
            raise VideoError(self.video.name, "unreadable", detail)

    @contextlib.contextmanager
    def in_file_order(self) -> Iterator[Iterator[Any]]:
        """Yield all packets in file order: the kept ones, or those of the reopened file."""
        if self.packets:
            yield iter(self.packets)
            return
        with open_video(self.video.source, self.video.max_pixels) as again:
            yield islice(_demux(again), len(self.pts))


def stores_times(container: Any) -> bool:
    """Return whether the container stores presentation times. If not, FFmpeg guesses them."""
    return not _STORES_PRESENTATION_TIME.isdisjoint(container.format.name.split(","))


def scan(video: OpenVideo) -> PacketPlan:
    """Demux the stream once, without decoding, and number its frames.

    Raises:
        VideoError: ``no_frames`` if the stream has no packets.
    """
    found = _demux_all(video)
    codec = video.context.name
    formats = frozenset(video.container.format.name.split(","))
    # If packets are stored in display order, FFmpeg guesses their times correctly.
    ordered = stores_times(video.container) or not video.context.has_b_frames
    if codec == "mpeg4" and found.packets and not ordered and not found.silent:
        ordered = _number_by_type(video, found)

    silent = found.silent
    shown = [position for position in range(len(found.pts)) if position not in silent]
    plan = PacketPlan(video, found.pts, found.keys, shown, found.packets, found.head)
    plan.has_checksums = found.has_checksums
    plan.doubt = _doubt(plan, found, ordered)
    if all(found.pts[position] is not None for position in shown):
        shown.sort(key=found.pts.__getitem__)  # type: ignore[arg-type]
    plan.guard = _guard(plan, found, formats)
    plan.can_skip = codec in _CAN_SKIP_UNREFERENCED
    if codec == "hevc":
        plan.can_skip = hevc.can_skip(hevc.pictures(video.context.extradata or b"", plan.packets))
    may_split = not formats.isdisjoint(_FIELD_PACKETS)
    plan.may_hold_fields = may_split and codec in ("h264", "mpeg2video")
    return plan


@dataclass
class _Found:
    """What one pass over a stream's packets finds, in file order."""

    pts: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    packets: list[Any] = field(default_factory=list)
    head: bytes = b""
    has_checksums: bool = False
    silent: set[int] = field(default_factory=set)
    """Positions of packets that show no frame."""
    num_discarded: int = 0
    smallest_bytes: int = 2**31
    new_headers: bool = False
    has_palette: bool = False


def _demux_all(video: OpenVideo) -> _Found:
    """All packets of the stream, up to the end of the file or the first read error."""
    found = _Found()
    hides_frame = _HIDES_FRAME.get(video.context.name)
    looks_for_checksums = video.context.name == "ffv1"
    num_bytes = 0
    last_is_cut = False
    failure = "the video stream has no packets"
    try:
        for packet in _demux(video):
            position = len(found.pts)
            if not position:
                found.head = bytes(memoryview(packet)[:_HEAD_BYTES])
            if looks_for_checksums and position < _PACKETS_TRIED and not found.has_checksums:
                found.has_checksums = ffv1.is_whole(bytes(packet))
            found.pts.append(packet.pts)
            found.packets.append(packet)
            if packet.is_keyframe:
                found.keys.append(position)
            if packet.is_discard:
                found.num_discarded += 1
                found.silent.add(position)
            elif hides_frame is not None and hides_frame(packet):
                found.silent.add(position)
            if position and packet.has_sidedata("new_extradata"):
                found.new_headers = True
            if packet.has_sidedata("palette"):
                found.has_palette = True
            last_is_cut = packet.is_corrupt
            found.smallest_bytes = min(found.smallest_bytes, packet.size)
            num_bytes += packet.size
            if num_bytes > KEEP_BYTES:
                found.packets.clear()
    except av.error.MemoryError:
        raise
    except av.error.FFmpegError as error:
        failure = str(error)
    if last_is_cut:  # the file is truncated within this packet
        found.pts.pop()
        found.packets = found.packets[:-1]
        found.keys = [key for key in found.keys if key < len(found.pts)]
    if not found.pts:
        raise VideoError(video.name, "no_frames", failure)
    if len(found.packets) < len(found.pts):
        found.packets = []
    return found


def _number_by_type(video: OpenVideo, found: _Found) -> bool:
    """Replace guessed times with display ranks from the types of MPEG-4 pictures, if possible."""
    numbered = mpeg4.number_packets(video, found.packets)
    if numbered is None:
        found.packets = []  # number_packets has changed them
        return False
    found.packets = numbered
    found.pts = [packet.pts for packet in numbered]
    found.keys = [position for position, packet in enumerate(numbered) if packet.is_keyframe]
    found.smallest_bytes = min(packet.size for packet in numbered)
    return True


def _demux(video: OpenVideo) -> Iterator[Any]:
    """The packets that hold data."""
    try:
        for packet in video.container.demux(video.stream):
            if packet.size:
                yield packet
    except IndexError:
        # After the last packet PyAV yields an empty one for each stream. It fails for a stream that
        # appeared midway, as in MPEG-TS with flipped bits. No packet is missing.
        return


def _doubt(plan: PacketPlan, found: _Found, ordered: bool) -> str:
    """Why presentation times do not number the frames of this stream, or an empty string."""
    pts, keys, shown = plan.pts, plan.keys, plan.shown
    codec = plan.video.context.name
    if any(time is None for time in pts):
        return "a packet without a presentation time"
    times = [pts[position] for position in shown]
    if len(set(times)) < len(times):
        return "two packets with the same presentation time"
    if not keys or keys[0] != 0:
        return "the first packet is not a key frame"
    if any(pts[position] < pts[0] for position in shown):  # type: ignore[operator]
        return "pictures shown before the first key frame"
    if any(pts[b] <= pts[a] for a, b in pairwise(keys)):  # type: ignore[operator]
        return "key frames out of order"
    farthest = MOST_REORDERED if plan.video.context.has_b_frames else 0
    ranks = sorted(range(len(times)), key=times.__getitem__)  # type: ignore[arg-type]
    if any(abs(rank - place) > farthest for rank, place in enumerate(ranks)):
        return "a presentation time far from those of its neighbours"
    if found.has_palette and codec != "png":  # each PNG picture has its own palette
        return "a palette that only one packet has"
    if found.new_headers:
        return "the stream's headers change midway"
    if codec == "mpeg4" and found.smallest_bytes < mpeg4.PLACEHOLDER_BYTES:
        return "placeholder packets among the pictures"
    if not ordered:
        return "reordered pictures in a container without presentation times"
    return ""


def _guard(plan: PacketPlan, found: _Found, formats: frozenset[str]) -> str:
    """Why decord 0.6.0 may hang on this file or return wrong frames, or "".

    The list of known bugs may be incomplete, so the tests compare decord with sequential decoding on
    every kind of file that passes.
    """
    video = plan.video
    if video.num_video_streams > 1:
        return f"{video.num_video_streams} video streams: decord may read another one"
    if found.num_discarded:
        return f"edit list: {found.num_discarded} packets flagged discard"
    if found.silent:
        return "VP8 pictures that are not shown"
    if _DECORD_READS.isdisjoint(formats):
        return f"{video.container.format.name} container"
    if video.context.codec.canonical_name == "av1":
        return "AV1"
    if plan.doubt:
        return plan.doubt
    if "avi" in formats and video.context.has_b_frames:
        return "AVI with B-frames"
    if video.stream.duration is None and video.container.duration is None:
        return "no duration"
    latest_key = plan.pts[plan.keys[0]]
    key_positions = set(plan.keys)
    for position, time in enumerate(plan.pts):
        if position in key_positions:
            latest_key = time
        elif time < latest_key:  # type: ignore[operator]
            return "open GOP: a picture after a key frame is shown before it"
    return ""


def _vp8_hides_frame(packet: Any) -> bool:
    """Whether a VP8 packet holds an alternate reference picture, which is not shown."""
    return not memoryview(packet)[0] & 0x10


_HIDES_FRAME: dict[str, Callable[[Any], bool]] = {
    "vp8": _vp8_hides_frame,
    "libvpx": _vp8_hides_frame,
}
