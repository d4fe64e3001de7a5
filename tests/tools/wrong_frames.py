"""Count wrong frames of decoders, as a table in Markdown: ``python -m tests.tools.wrong_frames``.

Each file is encoded here from 48 frames that show their numbers. stm, decord and (if it is installed) torchcodec read 8
of them, each in a separate process, because decord hangs on some files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.videos import write_video

NUM_FRAMES = 48
ASKED = [2, 8, 14, 20, 26, 32, 38, 44]
TIMEOUT_S = 60
B_FRAMES = {"g": "12", "bf": "2"}
IRREGULAR_MS = [40 * k + 7 * (k % 3) + 90 * (k // 10) for k in range(NUM_FRAMES)]
FILES: dict[str, tuple[str, dict[str, object]]] = {
    "H.264 in MP4": ("h264.mp4", {"options": B_FRAMES}),
    "H.264 in MPEG-TS": ("h264.ts", {"options": B_FRAMES}),
    "H.264 in AVI": ("h264.avi", {"options": B_FRAMES}),
    "H.264, variable frame rate, MKV": ("vfr.mkv", {"options": B_FRAMES, "times_ms": IRREGULAR_MS}),
    "MPEG-4 in AVI": ("mpeg4.avi", {"codec": "mpeg4", "options": {"g": "12"}}),
    "MPEG-4 with B-frames in AVI": ("mpeg4-b.avi", {"codec": "mpeg4", "options": B_FRAMES}),
    "MPEG-2 in MPEG-PS": ("mpeg2.mpg", {"codec": "mpeg2video", "options": B_FRAMES}),
    "WMV2": ("wmv2.wmv", {"codec": "wmv2", "options": {"g": "12"}}),
    "VP9 in WebM": ("vp9.webm", {"codec": "libvpx-vp9", "options": {"g": "12", "cpu-used": "8"}}),
}
READERS = {
    "stm": "from stm.data.decode import read_frames; frames = list(read_frames(path, asked))",
    "decord": "import decord; frames = decord.VideoReader(path, num_threads=1).get_batch(asked).asnumpy()",
    "torchcodec": "from torchcodec.decoders import VideoDecoder; "
    "frames = VideoDecoder(path, dimension_order='NHWC').get_frames_at(asked).data.numpy()",
}


def wrong(reader: str, path: Path) -> str:
    """Return the number of frames that differ from the requested ones, or ``error`` or ``hangs``."""
    code = (
        f"import json, sys; path, asked = json.loads(sys.argv[1]); {READERS[reader]}; "
        "from tests.videos import frame_numbers; print(json.dumps(frame_numbers(frames)))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps([str(path), ASKED])],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    if done.returncode:
        return "error"
    found = json.loads(done.stdout.splitlines()[-1])
    return str(sum(a != b for a, b in zip(found, ASKED, strict=True)))


def main() -> None:
    readers = [name for name in READERS if find_spec(name) is not None]
    print(f"| file | {' | '.join(readers)} |\n|---|{'---|' * len(readers)}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, recipe) in FILES.items():
            path = write_video(Path(folder) / file, num_frames=NUM_FRAMES, **recipe)
            print(
                f"| {name} | {' | '.join(wrong(reader, path) for reader in readers)} |", flush=True
            )


if __name__ == "__main__":
    main()
