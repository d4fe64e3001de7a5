"""The packet plan: which packets hold the wanted frames, known before anything is decoded.

The number of a frame is the rank of its packet's presentation time among the packets that are not
flagged discard. That is exact for edit lists, variable frame rates and open GOPs, and gives the
true length. Where presentation times cannot be relied on, ``PacketPlan.doubt`` says why, and only
decoding in sequence and counting is right.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import av.error

from stm.data.decode import mpeg4
from stm.data.decode.source import OpenVideo, open_video
from stm.data.decode.video import VideoError

# Packets of larger files are dropped after the scan and demuxed again: this bounds memory.
KEEP_BYTES = 64 * 2**20

# Containers that store the presentation time of each picture. Elsewhere FFmpeg guesses it, which is
# certain only where pictures are stored in the order they are shown.
_STORES_PRESENTATION_TIME = frozenset(
    ["mov", "mp4", "matroska", "webm", "mpegts", "mpeg", "flv", "ogg", "nut", "gif", "ivf", "apng"]
)

# Containers in which decord was seen to return the right frames. It was seen to return wrong ones
# in MPEG-TS and ASF (WMV); the rest was not measured.
_DECORD_READS = frozenset(["mov", "mp4", "matroska", "webm", "avi", "flv"])

# Decoders that leave out, bit-exactly, the pictures that no other picture refers to. Not AV1: told
# the same, libdav1d loses frames.
_CAN_SKIP_UNREFERENCED = frozenset(["h264", "hevc", "mpeg4", "mpeg2video"])


@dataclass(frozen=True)
class Run:
    """Packets to decode together: from a key packet to the last wanted frame that needs it."""

    start: int
    stop: int
    """Positions in file order; ``stop`` is not included."""
    frames: dict[int, int]
    """Position of each wanted packet in the run -> the number of the frame it shows."""


@dataclass
class PacketPlan:
    """The packets of one video stream in file order, and the frame that each of them shows."""

    video: OpenVideo
    pts: list[int | None]
    """Presentation time of each packet, in file order, in the stream's time base."""
    keys: list[int]
    """Positions, in file order, of the packets that decoding can start from."""
    shown: list[int]
    """Positions of the packets that show a frame, in display order: ``shown[k]`` shows frame k."""
    packets: list[Any] = field(default_factory=list)
    """PyAV packets in file order; empty if the file was too large to keep them."""
    doubt: str = ""
    """Why frame numbers cannot be known without decoding; empty where they are exact."""
    guard: str = ""
    """Why decord cannot be trusted with this file; empty where it can."""
    can_skip: bool = False
    """Whether pictures that no other picture refers to may be left undecoded."""

    @property
    def num_frames(self) -> int:
        """The true length; an estimate where there is doubt."""
        return len(self.shown)

    @property
    def keyframe_interval(self) -> int:
        """Packets in the longest run from one key packet to the next."""
        return max((b - a for a, b in pairwise([*self.keys, len(self.pts)])), default=0)

    def frame_of_pts(self) -> dict[int, int]:
        """Presentation time -> frame number. Meaningful only without doubt."""
        return {self.pts[position]: k for k, position in enumerate(self.shown)}  # type: ignore[misc]

    def runs(self, wanted: Sequence[int]) -> list[Run]:
        """The runs that hold the wanted frame numbers, merged where they share a key packet."""
        grouped: dict[int, dict[int, int]] = {}
        for k in wanted:
            position = self.shown[k]
            nearest = bisect_right(self.keys, position) - 1
            # A leading picture is stored after a key packet, shown before it, and refers past it.
            while self.pts[self.keys[nearest]] > self.pts[position]:  # type: ignore[operator]
                nearest -= 1
            grouped.setdefault(self.keys[nearest], {})[position] = k
        runs: list[Run] = []
        for start, frames in sorted(grouped.items()):
            if runs and start < runs[-1].stop:  # a leading picture's run reaches into this one
                start, frames = runs[-1].start, {**runs[-1].frames, **frames}
                runs.pop()
            runs.append(Run(start, max(frames) + 1, frames))
        return runs

    @contextlib.contextmanager
    def in_file_order(self) -> Iterator[Iterator[Any]]:
        """All packets in file order: those kept, or else those of the file opened once more."""
        if self.packets:
            yield iter(self.packets)
            return
        with open_video(self.video.source) as again:
            yield _demux(again, len(self.pts))


def scan(video: OpenVideo) -> PacketPlan:
    """Demux the stream once, decoding nothing, and number its frames: about a millisecond a clip.

    Raises:
        VideoError: ``no_frames``, if the stream holds no packet at all.
    """
    codec = video.context.name
    hides_frame = _HIDES_FRAME.get(codec)
    pts: list[int | None] = []
    keys: list[int] = []
    silent: set[int] = set()  # positions of packets that show nothing
    packets: list[Any] = []
    num_bytes = num_discarded = num_corrupt_at_end = 0
    smallest = 2**31
    new_headers = False
    damage = ""
    try:
        for packet in video.container.demux(video.stream):
            size = packet.size
            if not size:
                continue
            position = len(pts)
            pts.append(packet.pts)
            packets.append(packet)
            if packet.is_keyframe:
                keys.append(position)
            if packet.is_discard:
                num_discarded += 1
                silent.add(position)
            elif hides_frame is not None and hides_frame(packet):
                silent.add(position)
            num_corrupt_at_end = num_corrupt_at_end + 1 if packet.is_corrupt else 0
            new_headers = new_headers or (position > 0 and packet.has_sidedata("new_extradata"))
            smallest = min(smallest, size)
            num_bytes += size
            if num_bytes > KEEP_BYTES:
                packets.clear()
    except av.error.FFmpegError as error:
        damage = str(error)
    if num_corrupt_at_end:  # how a truncated file ends: with a packet whose data is not there
        end = len(pts) - num_corrupt_at_end
        del pts[end:], packets[end:]
        keys = [key for key in keys if key < end]
    if not pts:
        raise VideoError(video.name, "no_frames", damage or "the video stream holds no packets")
    if len(packets) < len(pts):
        packets = []

    ordered = _stores_presentation_time(video) or not video.context.has_b_frames
    if codec == "mpeg4" and packets and not ordered and not silent:
        numbered = mpeg4.number_packets(video, packets)
        packets = numbered or []
        if numbered:
            ordered = True
            pts = [packet.pts for packet in packets]
            keys = [position for position, packet in enumerate(packets) if packet.is_keyframe]
            smallest = min(packet.size for packet in packets)
    shown = [position for position in range(len(pts)) if position not in silent]
    plan = PacketPlan(video, pts, keys, shown, packets)
    plan.doubt = _doubt(plan, smallest, new_headers, ordered)
    if all(pts[position] is not None for position in shown):
        shown.sort(key=pts.__getitem__)  # type: ignore[arg-type]
    plan.guard = _guard(plan, num_discarded)
    plan.can_skip = codec in _CAN_SKIP_UNREFERENCED and not (
        codec == "hevc" and (not packets or _hevc_has_sublayers(video, packets))
    )
    return plan


def _demux(video: OpenVideo, count: int) -> Iterator[Any]:
    """The first ``count`` packets that hold data."""
    for packet in video.container.demux(video.stream):
        if packet.size:
            yield packet
            count -= 1
            if not count:
                return


def _doubt(plan: PacketPlan, smallest: int, new_headers: bool, ordered: bool) -> str:
    """Why presentation times do not number the frames of this stream, or an empty string."""
    pts, keys, shown = plan.pts, plan.keys, plan.shown
    codec = plan.video.context.name
    if any(time is None for time in pts):
        return "a packet without presentation time"
    times = [pts[position] for position in shown]
    if len(set(times)) < len(times):
        return "two packets with the same presentation time"
    if not keys or keys[0] != 0:
        return "the first packet is no key frame"
    if any(pts[position] < pts[0] for position in shown):  # type: ignore[operator]
        return "pictures shown before the first key frame"
    if any(pts[b] <= pts[a] for a, b in pairwise(keys)):  # type: ignore[operator]
        return "key frames out of order"
    if new_headers:
        return "the stream's headers change midway"
    if codec == "mpeg4" and smallest < mpeg4.PLACEHOLDER_BYTES:
        return "placeholders among the pictures"
    if not ordered:
        return "reordered pictures in a container without presentation times"
    return ""


def _guard(plan: PacketPlan, num_discarded: int) -> str:
    """Why decord 0.6.0 may hang on this file or return other frames than it should, or "".

    Measured on 90 files whose verdict is known: it called no silently wrong file safe.
    """
    video = plan.video
    formats = video.container.format.name.split(",")
    if num_discarded:
        return f"edit list: {num_discarded} packets flagged discard"
    if _DECORD_READS.isdisjoint(formats):
        return f"{formats[0]} container"
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


def _stores_presentation_time(video: OpenVideo) -> bool:
    return not _STORES_PRESENTATION_TIME.isdisjoint(video.container.format.name.split(","))


def _vp8_hides_frame(packet: Any) -> bool:
    """VP8's alternate reference pictures are packets of their own that show nothing."""
    return not memoryview(packet)[0] & 0x10


_HIDES_FRAME: dict[str, Callable[[Any], bool]] = {
    "vp8": _vp8_hides_frame,
    "libvpx": _vp8_hides_frame,
}


def _hevc_has_sublayers(video: OpenVideo, packets: list[Any]) -> bool:
    """Whether any HEVC picture is in a temporal sub-layer above the base, or may be.

    "Not a reference" means within its own sub-layer only: a picture of a higher one may well refer
    to it, so that skipping it would change what is shown.
    """
    extradata = video.context.extradata or b""
    is_length_prefixed = extradata[:1] == b"\x01"
    if is_length_prefixed and (len(extradata) < 22 or extradata[21] & 3 != 3):
        return True  # lengths are not of four bytes, as they are everywhere
    slices = _hevc_units if is_length_prefixed else _hevc_units_by_start_code
    for packet in packets:
        for unit_type, layer in slices(bytes(packet)):
            if unit_type < 32:  # a slice; all slices of a picture are in one sub-layer
                if layer > 0:
                    return True
                break
    return False


def _hevc_units(data: bytes) -> Iterator[tuple[int, int]]:
    """(type, temporal sub-layer) of each unit of a packet as mp4 and Matroska store it."""
    at = 0
    while at + 6 <= len(data):
        yield (data[at + 4] >> 1) & 0x3F, (data[at + 5] & 7) - 1
        at += 4 + int.from_bytes(data[at : at + 4], "big")


def _hevc_units_by_start_code(data: bytes) -> Iterator[tuple[int, int]]:
    """The same of a packet as MPEG-TS stores it."""
    at = data.find(b"\x00\x00\x01")
    while at >= 0 and at + 5 <= len(data):
        yield (data[at + 3] >> 1) & 0x3F, (data[at + 4] & 7) - 1
        at = data.find(b"\x00\x00\x01", at + 3)
