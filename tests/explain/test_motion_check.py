"""Correlations with true motion: the truth is the generator's, and each figure answers its own question."""

from __future__ import annotations

import numpy as np
import pytest

from stm.data import synthetic
from stm.errors import UserError
from tests.tools import digits, motion_check
from tests.tools.motion_check import DIFFERENCE, UNTRAINED, check_motion, figures_of, interval


@pytest.mark.parametrize("pair", range(4))
def test_the_mask_covers_the_digit_and_nothing_else(pair):
    drawing = {"size": 72, "num_frames": 12}
    frames = synthetic.draw_video(pair, np.random.default_rng(3), **drawing).astype(float)
    opacity = synthetic.draw_opacity(pair, np.random.default_rng(3), **drawing)
    assert opacity.shape == (12, 72, 72)
    assert 0.005 < (opacity > 0.5).mean() < 0.2
    # The background does not move: wherever two frames differ, one of them shows the digit.
    differs = np.abs(frames[0] - frames[-1]).max(-1) > 2
    covered = np.maximum(opacity[0], opacity[-1])
    assert differs.any()
    assert (covered[differs] > 0).all()
    assert differs[(np.minimum(opacity[0], opacity[-1]) == 0) & (covered > 0.6)].mean() > 0.9


def test_a_video_and_its_reversal_have_reversed_masks(demo_videos):
    folder = demo_videos / "videos" / "val"
    _, left, pair = digits.draw(str(folder / "left-0000.mp4"), 72, 20, 0)
    _, right, same_pair = digits.draw(str(folder / "right-0000.mp4"), 72, 20, 0)
    np.testing.assert_array_equal(left, right[::-1])
    assert pair == same_pair
    centre = (left * np.arange(72)).sum((1, 2)) / left.sum((1, 2))
    assert centre[0] > centre[-1] + 20  # it does move left


def test_a_video_that_the_demo_did_not_make_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a video of `stm demo`"):
        digits.draw(str(tmp_path / "holiday.mp4"), 72, 20, 0)


def square(steps: list[int], size: int = 24, edge: int = 4) -> np.ndarray:
    """float32 [T, size, size]: a square at these places along x."""
    digit = np.zeros((len(steps), size, size), dtype=np.float32)
    for t, left in enumerate(steps):
        digit[t, 10 : 10 + edge, left : left + edge] = 1
    return digit


DIGIT = square([2, 6, 10, 14, 18])


def figures(map_of):
    """The figures of the map that ``map_of`` makes of a clip, by name."""
    still = np.repeat(DIGIT[2:3], len(DIGIT), axis=0)
    three = (map_of(DIGIT), map_of(still), map_of(DIGIT[::-1]))
    return dict(zip(motion_check.MEASURES, figures_of(three, DIGIT), strict=True))


def following(clip):
    return np.concatenate([clip[1:], np.zeros_like(clip[:1])])


def test_a_map_of_appearance_lights_up_but_knows_neither_rest_nor_order():
    found = figures(lambda clip: clip + 0.1)
    assert found["motion"] == pytest.approx(0.7, abs=0.05)
    assert (found["at_rest"], found["order"], found["direction"]) == (1, 0, 0)


def test_a_map_of_motion_is_dark_at_rest_and_changes_with_the_order_of_time():
    found = figures(lambda clip: np.abs(following(clip) - clip))
    assert found["motion"] == pytest.approx(1)
    assert found["at_rest"] == 0
    assert found["order"] == pytest.approx(1)
    assert found["direction"] == pytest.approx(1)


def test_the_sign_of_direction_says_whether_a_map_looks_ahead_or_behind():
    assert figures(following)["direction"] == pytest.approx(1)
    assert figures(lambda clip: following(clip[::-1])[::-1])["direction"] == pytest.approx(-1)


def test_an_interval_counts_pairs_and_not_their_videos():
    values = np.random.default_rng(0).normal(size=20)
    alone = interval(values, np.arange(20))
    doubled = interval(np.repeat(values, 2), np.repeat(np.arange(20), 2))
    assert doubled == pytest.approx(alone)
    assert alone["low"] < alone["mean"] < alone["high"]
    # 95 % of a mean of 20: about 2 standard errors either way.
    width = (alone["high"] - alone["low"]) / (values.std() / np.sqrt(20))
    assert width == pytest.approx(3.9, abs=0.4)


def test_every_map_is_measured_and_a_network_blind_to_time_cannot_tell_its_order(
    demo_videos, demo_checkpoints
):
    result = check_motion(
        [demo_checkpoints["stm"], demo_checkpoints["tsn"]],
        str(demo_videos / "val.parquet"),
        blocks=["layer1.0", "layer2.0"],
    )
    assert (result["num_videos"], result["num_pairs"], result["num_frames"]) == (8, 4, 4)
    rows = {(row["network"], row["block"], row["map"]): row for row in result["rows"]}
    kinds = {"STM": 4, "TSN": 3, UNTRAINED: 4}
    assert len(rows) == sum(2 * count for count in kinds.values()) + 1
    for (network, _, _), row in rows.items():
        if network == "TSN":
            assert row["order"]["mean"] < 1e-5
            assert row["direction"] == {"mean": 0, "low": 0, "high": 0}
    assert rows["STM", "layer1.0", "before"]["order"]["mean"] < 1e-5
    assert rows["STM", "layer1.0", "cmm"]["order"]["mean"] > 0.01
    assert rows["STM", "layer2.0", "before"]["order"]["mean"] > 1e-3
    pixels = rows[DIFFERENCE, "", "pixels"]
    assert pixels["motion"]["mean"] > 0.6
    assert pixels["at_rest"]["mean"] == 0
