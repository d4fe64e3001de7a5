"""Five hundred damaged files and bombs: each ends in frames or a named error, and the workers go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stm.data import decode
from stm.data.decode import VideoError
from stm.data.decode.plan import scan
from stm.data.decode.source import open_video
from stm.data.isolation import CallFailed, IsolatedProcess
from tests.data import probes
from tests.videos import frame_numbers, write_video

NUM_FILES = 500
NUM_WORKERS = 2
DEADLINE_S = 30.0  # a thousand times what one of these files takes
pytestmark = pytest.mark.long

NUM_FRAMES = 40
MOST_BYTES = decode.DEFAULT_LIMITS.memory_bytes + 2**30
"""Of a process: the limit, and what it had before."""

GOP = {"g": "12", "bf": "2"}
GOOD: dict[str, dict[str, object]] = {
    "h264.mp4": {"options": GOP},
    "h264.mkv": {"options": GOP},
    "h264.ts": {"options": GOP},
    "h264.flv": {"options": GOP},
    "mpeg4.avi": {"codec": "mpeg4", "options": GOP},
    "mpeg2.mpg": {"codec": "mpeg2video", "options": GOP},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=12"}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"g": "12", "preset": "12"}},
    "gif.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "ffv1.mkv": {"codec": "ffv1", "options": {"level": "3", "slices": "4"}},
}

INTRA_ONLY: dict[str, dict[str, object]] = {
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "ffv1.mkv": {"codec": "ffv1", "options": {"level": "3", "slices": "4", "g": "1"}},
    "ffv1 context.mkv": {"codec": "ffv1", "options": {"level": "3", "slices": "4", "g": "12"}},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "png.mov": {"codec": "png", "pix_fmt": "rgb24"},
    "jpeg2000.mov": {"codec": "jpeg2000"},
    "cineform.mov": {"codec": "cfhd", "pix_fmt": "yuv422p10le"},
}
"""Every picture stands by itself, but for the coder of "ffv1 context", which learns as it goes."""

REASONS_OF_DAMAGE = {
    "empty",
    "not_a_video",
    "truncated",
    "no_video_stream",
    "no_frames",
    "no_decoder",
    "too_large",
    "unreadable",
    "bad_index",  # where frames can only be counted, damage may take the last of them
}
"""Of `VideoError`: those that a local file can have for what is in it."""

Random = np.random.Generator
Damage = Callable[[bytearray, bytes, Random], None]


def stretch(data: bytearray, random: Random, most: int = 2000) -> slice:
    start = int(random.integers(len(data)))
    return slice(start, start + int(random.integers(1, most)))


def flip_bits(data: bytearray, other: bytes, random: Random) -> None:
    for at in random.integers(len(data), size=int(random.integers(1, 60))):
        data[at] ^= 1 << int(random.integers(8))


def flip_bits_of_header(data: bytearray, other: bytes, random: Random) -> None:
    for at in random.integers(min(len(data), 600), size=3):
        data[at] ^= 1 << int(random.integers(8))


def write_zeros(data: bytearray, other: bytes, random: Random) -> None:
    where = stretch(data, random)
    data[where] = bytes(len(data[where]))


def truncate(data: bytearray, other: bytes, random: Random) -> None:
    del data[int(random.integers(len(data))) :]


def delete(data: bytearray, other: bytes, random: Random) -> None:
    del data[stretch(data, random)]


def duplicate(data: bytearray, other: bytes, random: Random) -> None:
    where = stretch(data, random)
    data[where.start : where.start] = data[where]


def put_header_of_another_file(data: bytearray, other: bytes, random: Random) -> None:
    length = int(random.integers(4, 1500))
    data[:length] = other[:length]


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    flip_bits_of_header,
    write_zeros,
    truncate,
    delete,
    duplicate,
    put_header_of_another_file,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("good")
    return [
        write_video(folder / name, num_frames=NUM_FRAMES, **kind) for name, kind in GOOD.items()
    ]  # type: ignore[arg-type]


def bombs() -> dict[str, bytes]:
    """Small files that claim pictures of hundreds of megapixels."""
    gif = b"GIF89a%b%b\xf0\0\0\0\0\0\xff\xff\xff,\0\0\0\0%b%b\0\2\2\x84\x51\0;"
    sizes = {"whole": (16000, 16000), "wide": (65535, 20000), "picture": (40000, 40000)}
    found = {}
    for name, (width, height) in sizes.items():
        sides = width.to_bytes(2, "little"), height.to_bytes(2, "little")
        canvas = (b"\4\0", b"\4\0") if name == "picture" else sides
        found[f"bomb-{name}.gif"] = gif % (*canvas, *(sides if name != "wide" else (b"\4\0",) * 2))
    return found


def damaged(good: list[Path], folder: Path) -> Iterator[Path]:
    """The same files every time: each is a number, and nothing else is random. Bombs among them."""
    for name, data in bombs().items():
        (folder / name).write_bytes(data)
        yield folder / name
    whole = [path.read_bytes() for path in good]
    for number in range(NUM_FILES):
        random = np.random.default_rng(number)
        kind = number % len(good)
        damage = DAMAGES[number // len(good) % len(DAMAGES)]
        data = bytearray(whole[kind])
        damage(data, whole[int(random.integers(len(good)))], random)
        path = folder / f"{number:03d}-{damage.__name__}-{good[kind].name}"
        path.write_bytes(data)
        yield path


def outcome(process: IsolatedProcess, path: Path) -> str:
    """ "frames", or the reason of a `VideoError`, or what should not be."""
    try:
        info = process.call(decode.probe, str(path), deadline_s=DEADLINE_S)
        wanted = sorted({0, info.num_frames // 3, info.num_frames - 1})
        frames = process.call(decode.read_frames, str(path), wanted, deadline_s=DEADLINE_S)
    except VideoError as error:
        return error.reason if error.path == str(path) else f"it names {error.path}"
    except Exception as error:  # a hang or a crash among them
        return repr(error)
    expected = (len(wanted), info.height, info.width, 3)
    if frames.shape != expected or frames.dtype != np.uint8:
        return f"{frames.dtype} {frames.shape} instead of {expected}"
    return "frames"


def work(paths: list[Path], good: Path) -> tuple[dict[str, str], list[int], int]:
    """What one worker makes of its files, with a hang and a death among them; and of a good file.

    And the most memory, in bytes, that it took.
    """
    outcomes = {}
    peak_bytes = 0
    with IsolatedProcess(preload=["stm.data.decode.probing"]) as process:
        for k, path in enumerate(paths):
            outcomes[path.name] = outcome(process, path)
            if k == len(paths) // 3 or k == len(paths) - 1:
                peak = process.call(probes.peak_memory_bytes, deadline_s=DEADLINE_S)
                peak_bytes = max(peak_bytes, peak)
            if k == len(paths) // 3:
                with pytest.raises(CallFailed, match="deadline"):
                    process.call(probes.sleep, 600, deadline_s=0.3)
                with pytest.raises(CallFailed, match="exit status 7"):
                    process.call(probes.die, 7, deadline_s=DEADLINE_S)
        frames = process.call(
            decode.read_frames, str(good), range(NUM_FRAMES), deadline_s=DEADLINE_S
        )
    return outcomes, frame_numbers(frames), peak_bytes


def test_a_size_that_the_header_does_not_state_is_that_of_the_pictures(good: list[Path]) -> None:
    header = good[list(GOOD).index("h264.flv")].read_bytes()[:1200]
    info = decode.probe(header + bytes(3000))
    assert (info.width, info.height) == (160, 96)
    with pytest.raises(VideoError, match="unreadable"):
        decode.read_frames(header + bytes(3000), [0])


class TripsAtTheEnd:
    """A container whose demuxing ends as PyAV's does where a stream turned up midway."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        yield from self._container.demux(stream)
        raise IndexError("list index out of range")


def test_a_stream_that_turns_up_midway_costs_no_frame(good: list[Path]) -> None:
    with open_video(str(good[list(GOOD).index("h264.ts")])) as video:
        video.container = TripsAtTheEnd(video.container)
        assert scan(video).num_frames == NUM_FRAMES


def test_every_damaged_file_ends_in_frames_or_a_named_error_and_no_worker_is_lost(
    good: list[Path], tmp_path: Path
) -> None:
    paths = list(damaged(good, tmp_path))
    shares = [paths[k::NUM_WORKERS] for k in range(NUM_WORKERS)]
    with ThreadPoolExecutor(NUM_WORKERS) as pool:
        results = list(pool.map(work, shares, [good[0]] * NUM_WORKERS))
    outcomes = {name: each for found, _, _ in results for name, each in found.items()}
    allowed = {"frames", *REASONS_OF_DAMAGE}
    assert {name: each for name, each in outcomes.items() if each not in allowed} == {}
    assert len(outcomes) == NUM_FILES + len(bombs())
    # The picture that is larger than its canvas is drawn as far as it fits.
    assert outcomes["bomb-whole.gif"] == "too_large"
    assert max(peak_bytes for _, _, peak_bytes in results) < MOST_BYTES
    assert [numbers for _, numbers, _ in results] == [list(range(NUM_FRAMES))] * NUM_WORKERS

    # The damage is neither so light that all is read nor so heavy that nothing is.
    counts = Counter(outcomes.values())
    assert counts["frames"] > NUM_FILES / 10
    assert counts["unreadable"] > NUM_FILES / 10
    assert len(counts) >= 4, counts


def packets_of(path: Path) -> list[bytes]:
    with open_video(str(path)) as video:
        plan = scan(video)
        return [bytes(plan.packets[position]) for position in plan.shown]


@pytest.mark.parametrize("name", INTRA_ONLY)
def test_a_damaged_packet_never_shows_the_picture_of_another(tmp_path: Path, name: str) -> None:
    num_frames = 20
    good = write_video(tmp_path / name, num_frames=num_frames, **INTRA_ONLY[name])  # type: ignore[arg-type]
    number_of = {packet: k for k, packet in enumerate(packets_of(good))}
    whole = good.read_bytes()
    pictures = decode.read_frames(good, range(num_frames)).astype(np.int16)
    num_read = num_refused = 0
    for number in range(40):
        data = bytearray(whole)
        DAMAGES[number % len(DAMAGES)](data, whole, np.random.default_rng(number))
        path = tmp_path / f"damaged-{number}{good.suffix}"
        path.write_bytes(data)
        try:
            numbers = [number_of.get(packet) for packet in packets_of(path)]
        except VideoError:
            continue
        for k in range(0, len(numbers), 3):
            shown = []
            for decoder in ("packets", "sequential"):
                try:
                    (frame,) = decode.read_frames(path, [k], decoder)
                except VideoError:
                    num_refused += 1
                    continue
                if frame.shape != pictures.shape[1:]:
                    continue  # by a damaged header: in a clip that would be `changed`
                num_read += 1
                differences = np.abs(pictures - frame).mean(axis=(1, 2, 3))
                shown.append(int(differences.argmin()) if differences.min() < 1 else None)
            if numbers[k] is not None:  # its packet is as it was
                assert set(shown) <= {numbers[k]}, f"{path.name}, frame {k}: {shown}"
            else:
                others = set(numbers) - {None}
                assert not others & set(shown), f"{path.name}, frame {k}: {shown}"
    assert num_read > 50
    assert num_refused
