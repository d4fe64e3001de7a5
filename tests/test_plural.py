"""Numbers and nouns of messages agree."""

from __future__ import annotations

from stm.plural import counted, none_read


def test_one_thing_is_no_plural():
    said = [counted(number, noun) for number in (0, 1, 2) for noun in ("video", "class")]
    assert said == ["0 videos", "0 classes", "1 video", "1 class", "2 videos", "2 classes"]
    assert none_read(1, "a.mp4", "is empty") == "the video could not be read: a.mp4: is empty"
    assert none_read(2, "a.mp4", "is empty").startswith("none of the 2 videos could be read; ")
