"""The use of time: figures counted by hand, conclusions from the intervals, and the section that shows them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from stm.report import page, pictures
from stm.report.intervals import paired_difference
from stm.report.time_use import TimeUse
from tests.report.makers import make_facts, with_time
from tests.report.test_page import EVIL, Reader

PAIR = [(0, 1)]


def certain(answers, num_classes=4):
    """Scores that name ``answers`` [N]."""
    scores = np.full((len(answers), num_classes), 0.01)
    scores[np.arange(len(answers)), answers] = 0.9
    return scores


def use(right, num_videos=100, pairs=PAIR, readable=None):
    """Half the videos are of class 0, half of its reversal 1; ``right`` of each order are named as they are, the rest
    as the other class, and the first ones of each class are those."""
    labels = np.arange(num_videos) % 2
    scores = {}
    for order, count in right.items():
        answers = np.where(np.arange(num_videos) < count, labels, 1 - labels)
        scores[order] = certain(answers)
    readable = np.ones(num_videos, bool) if readable is None else readable
    return TimeUse(scores, labels, readable, pairs)


def test_an_unreadable_video_is_wrong_in_every_order_and_within_its_pair():
    readable = np.arange(100) >= 10
    found = use({"played": 100, "reversed": 0, "shuffled": 50}, readable=readable)
    assert {o: s.right for o, s in found.top1.items()} == {
        "played": 90,
        "reversed": 0,
        "shuffled": 40,
    }
    # All that were played backwards and could be read are called the other class.
    assert {o: s.right for o, s in found.in_pairs.items()} == {
        "played": 90,
        "reversed": 90,
        "shuffled": 40,
    }
    assert {s.total for s in found.in_pairs.values()} == {100}


def test_within_a_pair_the_other_classes_have_no_say_and_other_videos_do_not_count():
    scores = np.array([[0.2, 0.1, 0.7], [0.3, 0.1, 0.6], [0.0, 0.1, 0.9], [0.1, 0.1, 0.8]])
    found = TimeUse({"played": scores}, np.array([0, 1, 2, 0]), np.ones(4, bool), [(0, 1)])
    assert (found.top1["played"].right, found.top1["played"].total) == (1, 4)
    (pair,) = found.pairs
    # Of equal scores the class with the lower number counts.
    assert (pair.shares["played"].right, pair.shares["played"].total) == (2, 3)
    assert TimeUse({"played": scores}, np.full(4, 2), np.ones(4, bool), [(0, 1)]).pairs == []


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ({"played": 95, "shuffled": 20},
         r"As played 95\.0 %, shuffled 20\.0 %: this network needs the order of frames.*\(6\d\.\d to 8\d\.\d points"),
        ({"played": 95, "shuffled": 75}, r"this network uses the order of frames \("),
        ({"played": 70, "shuffled": 70}, r"nothing here shows that this network uses the order"),
        ({"played": 95, "shuffled": 93}, r"nothing here shows .* worth less than \d\.\d points"),
        ({"played": 60, "shuffled": 90}, r"does better without the order of frames \(2\d\.\d to 3\d"),
        ({"played": 95, "still": 30}, r"with one frame repeated 30\.0 %: it needs more than one frame"),
        ({"played": 50, "still": 50}, r"nothing here shows that it needs more than one frame"),
        ({"played": 95, "shuffled": 50}, r"right one for 95\.0 % .* shuffled frames for 50\.0 % .* by the order"),
        ({"played": 50, "shuffled": 50}, r"no better than chance, which is 50 %"),
        ({"played": 95, "shuffled": 93}, r"nothing here shows that order helps"),
        ({"played": 5}, r"worse than chance"),
        ({"played": 95, "reversed": 5}, r"95\.0 % are called the other class of their pair, as they should"),
        ({"played": 95, "reversed": 95}, r"does not see these classes as reversals of each other"),
        ({"played": 95, "reversed": 52}, r"no more than chance, which is 50 %\.$"),
    ],
)  # fmt: skip
def test_a_sentence_says_what_the_intervals_bear(right, said):
    assert re.search(said, " ".join(use(right).says)), use(right).says


def test_of_few_videos_nothing_is_claimed():
    """Three of four against one of four: by chance as well."""
    said = " ".join(use({"played": 3, "shuffled": 1, "still": 1, "reversed": 1}, 4).says)
    assert said.count("nothing here shows") == 2
    assert "no better than chance" in said
    assert "no more than chance" in said


def test_where_nothing_could_be_read_nothing_is_said():
    found = use({"played": 9, "shuffled": 3}, 10, readable=np.zeros(10, bool))
    assert found.says == ["No video could be read."]
    assert found.as_dict(list("abcd"))["in_pairs"]["played"]["share"] == 0


def test_what_another_order_costs_is_counted_over_the_same_videos():
    found = use({"played": 80, "shuffled": 60})
    assert found.lost["shuffled"] == paired_difference(20, 0, 100)
    assert found.as_dict(list("abcd"))["orders"]["played"]["top1_lost_interval"] is None


@pytest.mark.parametrize("cells", [(0.3, 0.1), (0.02, 0.02), (0.6, 0.0), (0.05, 0.3)])
@pytest.mark.parametrize("total", [10, 40, 200])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_promises(cells, total):
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(total, [*cells, 1 - sum(cells)], 2000)
    held = [
        interval.low <= cells[0] - cells[1] <= interval.high
        for interval in (paired_difference(a, b, total) for a, b in drawn[:, :2].tolist())
    ]
    assert np.mean(held) >= 0.935  # 95 %, less what chance may take of 2000 tries


def timed_facts(classes=None, pairs=PAIR):
    return with_time(make_facts(5, 40, classes), pairs)


def shown(facts):
    text = page.render(facts, [])
    section = re.search(r'<section id="time">.*?</section>', text, re.S)
    return text, section and " ".join(re.sub("<[^>]+>", "|", section[0]).split())


def test_the_section_shows_every_order_every_pair_and_what_follows():
    facts = timed_facts()
    text, section = shown(facts)
    for sentence in facts.time_use.says:
        assert sentence in section
    for share in facts.time_use.top1.values():
        assert f"{100 * share.value:.1f}" in section
    assert "|class 000||class 001|" in section
    assert "drawn for each video; the repeated frame" in section
    assert text.index('href="#time"') < text.index('href="#confusions"')
    _, accurate = shown(replace(facts, num_views=30))
    assert "and each of its samplings" in accurate


def test_a_report_of_clips_as_played_alone_has_no_such_section():
    text, section = shown(make_facts())
    assert section is None
    assert "#time" not in text


def test_without_pairs_the_section_says_how_to_name_them():
    assert "--pairs FILE names the pairs" in shown(timed_facts(pairs=[]))[1]


def test_a_class_of_a_pair_that_is_named_like_a_script_is_text():
    reader = Reader(page.render(timed_facts([EVIL, *"abcd"]), []))
    assert reader.tags.count("script") == 1
    assert reader.handlers == []


def test_the_orders_are_a_picture_too(tmp_path):
    files = pictures.draw(timed_facts(pairs=[]), [], tmp_path)
    assert files["time"].stat().st_size > 5000
    assert pictures.draw(timed_facts(), [], tmp_path)["time"].stat().st_size > 5000
