"""Classes that are reversals of each other: found from the names people published, or named in a file."""

from __future__ import annotations

import pytest

from stm.data.annotations.reversing import backwards, check_pairs, read_pairs
from stm.data.synthetic import CLASSES
from stm.errors import UserError


def pairs(*classes):
    return [(classes[a], classes[b]) for a, b in backwards(classes)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Closing something", "Opening something"),
        ("Covering something with something", "Uncovering something"),
        ("Folding something", "Unfolding something"),
        ("Approaching something with your camera", "Moving away from something with your camera"),
        ("Moving something away from something", "Moving something closer to something"),
        ("Moving something away from the camera", "Moving something towards the camera"),
        ("Moving something and something away from each other",
         "Moving something and something closer to each other"),
        ("Moving [something] down", "Moving [something] up"),
        ("Pulling something from left to right", "Pushing something from right to left"),
        ("Putting something into something", "Taking something out of something"),
        ("Pulling something onto something", "Pushing something off of something"),
        ("Turning the camera left while filming something",
         "Turning the camera right while filming something"),
        ("Swiping Left", "Swiping Right"),
        ("Pulling Hand In", "Pushing Hand Away"),
        ("Rolling Hand Forward", "Rolling Hand Backward"),
        ("Turning Hand Clockwise", "Turning Hand Counterclockwise"),
        ("Zooming In With Full Hand", "Zooming Out With Full Hand"),
        ("sit down", "stand up"),
        ("turn-on", "turn-off"),
        ("OpenDoor", "CloseDoor"),
    ],
)  # fmt: skip
def test_names_that_say_each_other_backwards_are_a_pair(one, other):
    assert pairs(one, "Holding something", other) == [(one, other)]


@pytest.mark.parametrize(
    "classes",
    [
        # The hand would have to be on the other side.
        ["Pulling something from left to right", "Pulling something from right to left"],
        ["Pretending to open something without actually opening it",
         "Pretending to close something without actually closing it"],
        ["Pouring something into something", "Pouring something out of something"],
        ["Thumb Up", "Thumb Down"],
        ["PushUps", "PullUps"],
        ["push car", "pull car"],
        ["Letting something roll down a slanted surface",
         "Letting something roll up a slanted surface, so it rolls back down"],
        ["Moving something up", "Moving part of something"],
        ["opening", "closing", "Open", "Close"],  # which with which?
    ],
)  # fmt: skip
def test_names_that_do_not_are_none(classes):
    assert pairs(*classes) == []


def test_the_demos_classes_are_four_pairs():
    assert backwards(CLASSES) == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_a_file_names_pairs_and_commas_stand_in_quotes(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text('\ufeffrise,fall\n\n"one, two","two, one"\n', encoding="utf-8")
    classes = ["fall", "Rise", "one, two", "two, one"]
    assert read_pairs(str(file), classes) == [(1, 0), (2, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rise,fall\njump,sink\n", "line 2: the network has no class 'sink'"),
        ("rise\n", "line 1: a pair has two class names, not 1"),
        ("rise,fall,rise\n", "line 1: .* not 3"),
        ("rise,rise\n", "line 1: 'rise' is also in .*line 1;"),
        ("rise,fall\nfall,jump\n", "line 2: 'fall' is also in .*line 1;"),
    ],
)
def test_what_is_wrong_in_a_file_is_told_with_its_line(tmp_path, text, message):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=f"--pairs .*pairs.csv, {message}"):
        read_pairs(str(file), ["rise", "fall", "jump"])


def test_a_file_that_cannot_be_read_is_one_message(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "nothing.csv", tmp_path, tmp_path / "binary"):
        with pytest.raises(UserError, match=rf"--pairs {path}: cannot be read"):
            read_pairs(str(path), ["a", "b"])


def test_pairs_from_python_are_names_too():
    assert check_pairs([("b", "a")], ["a", "b"], ["here"]) == [(1, 0)]
