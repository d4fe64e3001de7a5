"""What is printed is text: names of files and classes move no cursor, turn nothing around and begin no line."""

from __future__ import annotations

import json
import logging
import re

import pyarrow.parquet as pq
import pytest

from pipelines import cli
from stm import markup
from stm.data.manifest import Manifest
from stm.log import get_logger
from stm.redaction import harmless, one_line
from tests.package.untrained import write_checkpoint
from tests.videos import write_video

CLASSES = ["a\x1b[31mred", "b\nFORGED: all is well", "c\r\x07\x9b2J", "d\u202egpj.\u2066"]
HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


@pytest.mark.parametrize(
    "code", [*range(32), *range(127, 160), 0x61C, *range(0x2028, 0x202F), 0x2066, 0xDC80, 0xD800]
)
def test_what_a_terminal_would_obey_is_written_as_an_escape(code):
    if chr(code) not in "\n\t":
        shown = harmless(f"é{chr(code)}日")
        assert re.fullmatch(r"é\\(x[0-9a-f]{2}|u[0-9a-f]{4}|r)日", shown)
    assert re.fullmatch(r"é\\(x[0-9a-f]{2}|u[0-9a-f]{4}|[rnt])日", one_line(f"é{chr(code)}日"))


def test_a_line_of_the_log_is_harmless_whoever_handles_it(caplog):
    with caplog.at_level(logging.INFO, "stm"):
        get_logger("stm.cli").info("two\nlines of \x1b[2J%s", "\u202ex")
    assert caplog.messages == ["two\nlines of \\x1b[2J\\u202ex"]


def test_a_page_is_harmless_in_text_attributes_and_data():
    html = markup.tag("p", CLASSES[3], title=CLASSES[0]) + markup.data_block(
        "d", {"a": [CLASSES[3]]}
    )
    assert not HARMFUL.search(html)
    data = re.search(r">({.*})<", html)
    assert json.loads(data[1]) == {"a": [harmless(CLASSES[3])]}


def safe(told, *escapes):
    """What was printed holds nothing harmful and no forged line, and names everything."""
    text = told.out + told.err
    assert not HARMFUL.search(text), text
    assert not re.search(r"(?m)^FORGED", text)
    for escape in escapes:
        assert escape in told.out + told.err
    return text


@pytest.mark.ray
def test_index_predict_and_evaluate_print_text_and_keep_the_names_as_they_are(
    ray_cluster, tmp_path, capfd
):
    root = tmp_path / "videos"
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        write_video(root / name / f"{number}\x1b]0;x\x07\n.mp4", num_frames=8)
    bad = root / CLASSES[1] / "bad\x1b[1A\nFORGED.mp4"
    bad.write_text("no video")

    folder = tmp_path / "index"
    words = ["--format", "folder", "--split_folders", "no", "--cross_check", "0"]
    assert cli.main(["index", "--root", str(root), "--output", str(folder), *words]) == 0
    safe(capfd.readouterr(), "bad\\x1b[1A\\nFORGED.mp4")
    (path,) = folder.glob("*.parquet")
    assert [*Manifest.read(path).classes] == sorted(CLASSES)
    assert str(bad.relative_to(root)) in pq.read_table(path)["path"].to_pylist()
    listed = (folder / f"{path.stem}.bad.txt").read_text()
    assert len(listed.splitlines()) == 1
    assert not HARMFUL.search(listed)

    checkpoint = write_checkpoint(tmp_path / "run" / "checkpoint-00000007", classes=sorted(CLASSES))
    assert cli.main(["predict", "--checkpoint", checkpoint, str(root / CLASSES[0]), str(bad)]) == 0
    safe(
        capfd.readouterr(),
        "a\\x1b[31mred",
        "b\\nFORGED: all is well",
        "d\\u202egpj.\\u2066",
        "FORGED.mp4\n",
    )
    evaluated = [
        "evaluate",
        "--checkpoint",
        checkpoint,
        "--manifest",
        str(path),
        "--output",
        str(tmp_path / "report"),
    ]
    assert cli.main(evaluated) == 0
    safe(capfd.readouterr(), "a\\x1b[31mred", "b\\nFORGED: all is well", "bad\\x1b[1A\\nFORGED.mp4")
    html = (tmp_path / "report" / "report.html").read_text()
    assert not HARMFUL.search(html)
    assert "d\\u202egpj" in html
