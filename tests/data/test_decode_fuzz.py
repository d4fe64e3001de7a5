"""Two hundred damaged files: each ends in frames or a named error, and the workers go on."""

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

NUM_FILES = 200
NUM_WORKERS = 2
DEADLINE_S = 30.0  # a thousand times what one of these files takes
NUM_FRAMES = 40

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
}

REASONS_OF_DAMAGE = {
    "empty",
    "not_a_video",
    "truncated",
    "no_video_stream",
    "no_frames",
    "no_decoder",
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


def damaged(good: list[Path], folder: Path) -> Iterator[Path]:
    """The same files every time: each is a number, and nothing else is random."""
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


def work(paths: list[Path], good: Path) -> tuple[dict[str, str], list[int]]:
    """What one worker makes of its files, with a hang and a death among them; and of a good file."""
    outcomes = {}
    with IsolatedProcess(preload=["stm.data.decode.probing"]) as process:
        for k, path in enumerate(paths):
            outcomes[path.name] = outcome(process, path)
            if k == len(paths) // 3:
                with pytest.raises(CallFailed, match="deadline"):
                    process.call(probes.sleep, 600, deadline_s=0.3)
                with pytest.raises(CallFailed, match="exit status 7"):
                    process.call(probes.die, 7, deadline_s=DEADLINE_S)
        frames = process.call(
            decode.read_frames, str(good), range(NUM_FRAMES), deadline_s=DEADLINE_S
        )
    return outcomes, frame_numbers(frames)


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
    outcomes = {name: each for found, _ in results for name, each in found.items()}
    allowed = {"frames", *REASONS_OF_DAMAGE}
    assert {name: each for name, each in outcomes.items() if each not in allowed} == {}
    assert len(outcomes) == NUM_FILES
    assert [numbers for _, numbers in results] == [list(range(NUM_FRAMES))] * NUM_WORKERS

    # The damage is neither so light that all is read nor so heavy that nothing is.
    counts = Counter(outcomes.values())
    assert counts["frames"] > NUM_FILES / 10
    assert counts["unreadable"] > NUM_FILES / 10
    assert len(counts) >= 4, counts
