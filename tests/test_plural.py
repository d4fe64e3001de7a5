"""Numbers and nouns of messages agree."""

from __future__ import annotations

import re
from pathlib import Path

from stm.plural import counted, have, none_read

ROOT = Path(__file__).parents[1]
UNCOUNTED = re.compile(
    r"\{[^{}]+\} (?:(?:more|other|readable|usable|later) )?(?:videos|classes|frames|clips|epochs|steps|files|segments|"
    r"windows|workers|restarts|cores|rounds|nodes|trials|failures|others|GPUs|images|samples|rows|columns|ranks|streams|"
    r"records|pairs)\b(?!/)"
)
"""A number before a plural, without `counted`."""
ALWAYS_SEVERAL = {
    "{num_frames} frames",  # in stm.model, which does not import stm.plural
    "{len(paths)} files", "{len(sent)} files", "{MOST_FILES} files", "{node.gpus} GPUs", "{max(trained_on):,} videos",
    "{len(rows)} videos", "{len(test)} videos", "{num_videos} videos", "{number} videos", "{test_videos} videos",
    "{len(classes)} classes", "{', '.join(slower)} videos",
    "{row['ceiling_clips_per_s'] / args.gpu_clips_per_s:.1f} GPUs",
}  # fmt: skip


def test_one_thing_is_no_plural():
    said = [counted(number, noun) for number in (0, 1, 2) for noun in ("video", "class")]
    assert said == ["0 videos", "0 classes", "1 video", "1 class", "2 videos", "2 classes"]
    assert [counted(1.0, "epoch", "g"), counted(5.0, "epoch", "g")] == ["1 epoch", "5 epochs"]
    assert [counted(1234, "step", ","), counted(2, "stretch")] == ["1,234 steps", "2 stretches"]
    assert [have(1), have(2)] == ["has", "have"]
    assert none_read(1, "a.mp4", "is empty") == "the video could not be read: a.mp4: is empty"
    assert none_read(2, "a.mp4", "is empty").startswith("none of the 2 videos could be read; ")


def test_a_number_that_may_be_1_is_counted():
    files = [path for room in ("stm", "pipelines") for path in (ROOT / room).rglob("*")]
    found = {
        match.group()
        for path in files
        if path.suffix in (".py", ".html")
        for match in UNCOUNTED.finditer(path.read_text())
    }
    assert not found - ALWAYS_SEVERAL
