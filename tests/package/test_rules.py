"""The champion is moved by the rule that was asked for, and numbers are compared only with their like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stm.errors import UserError
from stm.package.rules import Champion, Measurement, check, decide

MEASURED = Measurement(
    manifest="a" * 64,
    manifest_path="val.parquet",
    protocol="efficient",
    classes="c" * 64,
    num_videos=96,
    unreadable=1,
    top1=0.75,
    top5=0.95,
    mean_class_accuracy=0.7,
)


def test_always_and_never_look_at_nothing():
    assert decide("always", None, Champion("3", MEASURED))[0]
    assert not decide("never", MEASURED, None)[0]


@pytest.mark.parametrize(
    ("metric", "theirs", "moves"),
    [("top1", 0.74, True), ("top1", 0.75, False), ("top1", 0.76, False), ("top5", 0.94, True)],
)
def test_better_is_higher_and_not_equal(metric, theirs, moves):
    champion = Champion("3", replace(MEASURED, **{metric: theirs}))
    moved, reason = decide(f"better:{metric}", MEASURED, champion)
    assert moved is moves
    assert f"{theirs:.2%} of version 3, N = 96, efficient" in reason


def test_the_first_measured_version_is_better_than_nobody():
    assert decide("better:top1", MEASURED, None)[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"manifest": "b" * 64}, r"manifest val.parquet \[bbbbbbbbbbbb\] of the champion"),
        ({"protocol": "accurate"}, "protocol accurate of the champion"),
        ({"classes": "d" * 64}, "classes dddddddddddd of the champion"),
    ],
)
def test_unlike_things_are_not_compared(change, told):
    lower = replace(MEASURED, top1=0.1, **change)
    with pytest.raises(UserError, match=told):
        decide("better:top1", MEASURED, Champion("3", lower))


def test_a_champion_that_was_never_measured_is_not_beaten():
    with pytest.raises(UserError, match="version 3, was never measured"):
        decide("better:top1", MEASURED, Champion("3", None))
    with pytest.raises(UserError, match="give --manifest"):
        decide("better:top1", None, Champion("3", MEASURED))


@pytest.mark.parametrize("rule", ["", "better", "better:", "better:loss", "top1", "Always"])
def test_an_unknown_rule_is_refused_by_name(rule):
    with pytest.raises(UserError, match="use `always`, `never`, or `better:`"):
        check(rule)


def test_a_measurement_survives_its_journey_through_tags():
    tags = MEASURED.to_tags()
    assert Measurement.from_tags(tags) == MEASURED
    assert tags["stm.top1"] == "0.75"
    assert Measurement.from_tags({}) is None
    assert Measurement.from_tags({"stm.measured": "{}"}) is None
