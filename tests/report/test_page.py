"""The page: nothing in it is markup that was text, nothing asks a network, colours can be read, and words are true."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
from dataclasses import replace

import numpy as np
import pytest

from stm.config import Config
from stm.data.synthetic import draw_video, encode
from stm.markup import asset, data_block, tag
from stm.report import page, pictures, sections
from stm.report.hardest import HardVideo, hardest
from stm.report.svg import ticks
from stm.scoring.inference import Scores
from stm.scoring.metrics import measure
from tests.report.makers import make_facts

STYLE, SCRIPT = (asset("stm.report", f"report.{kind}") for kind in ("css", "js"))
EVIL = "<script>alert('x')</script>\"' onload=alert(1) </script><!-- $a$"


class Reader(html.parser.HTMLParser):
    """Counts elements, keeps addresses, texts and what is left open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.handlers, self.texts = [], [], [], []
        self.open = []
        self.feed(text)

    def handle_starttag(self, name, attributes):
        self.tags.append(name)
        self.addresses += [
            v for k, v in attributes if k in ("src", "href", "data", "srcset", "action")
        ]
        self.handlers += [k for k, _ in attributes if k.startswith("on")]
        if name not in ("meta", "img", "input"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name, f"</{name}> does not close what is open"

    def handle_data(self, text):
        self.texts.append(text)


def hard(facts):
    """One hard video without its frames."""
    row = int(np.flatnonzero(facts.scores.readable_N)[0])
    true = int(facts.labels_N[row])
    return HardVideo("clip-0001", "x.mp4", true, [(0, 0.6), (1, 0.3)], 0.1, None, EVIL)


@pytest.mark.parametrize("num_classes", [5, 60])
def test_a_class_named_like_a_script_is_text_wherever_it_appears(num_classes):
    classes = [f"{EVIL} {number}" for number in range(num_classes)]
    facts = make_facts(num_classes, 200, classes=classes)
    facts = replace(facts, scores=replace(facts.scores, failures=[
        {"video_id": EVIL, "path": EVIL, "reason": EVIL, "detail": EVIL}]), command=EVIL)  # fmt: skip
    text = page.render(facts, [hard(facts)])
    read = Reader(text)
    assert read.open == []
    assert read.tags.count("script") == 1 + (num_classes > 40)  # the page's own, and its data
    assert read.handlers == []
    assert "alert('x')</script>" not in text
    assert any(EVIL in said for said in read.texts)  # and it is shown


def test_the_page_asks_nothing_of_any_network():
    read = Reader(page.render(make_facts(60, 200), []))
    assert {address.split(":")[0].split("#")[0] for address in read.addresses} <= {"data", ""}
    assert "@import" not in STYLE
    assert "url(" not in STYLE
    assert "fetch" not in SCRIPT


def test_the_one_script_that_may_run_is_the_pages_own():
    text = page.render(make_facts(60, 200), [])
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src &#39;sha256-{digest}&#39;" in text


def test_secrets_of_urls_do_not_reach_the_page():
    facts = make_facts(
        checkpoint="s3://key:pa55@bucket/run", command="stm evaluate --manifest http://u:pa55@h/m"
    )
    text = page.render(facts, [])
    assert "pa55" not in text
    assert "s3://***@bucket/run" in text


def test_data_for_the_script_cannot_end_its_block():
    block = data_block("x", {"classes": ["</script><b>", "&\u2028"]})
    assert block.count("<") == 2
    assert tag("td", "<b>", title='"') == '<td title="&#34;">&lt;b&gt;</td>'


def test_every_image_and_chart_says_in_words_what_it_shows():
    facts = make_facts(60, 200)
    text = page.render(facts, [replace(hard(facts), strip=b"jpeg")])
    for image in re.findall(r"<img[^>]*>", text):
        assert re.search(r'alt="[^"]{10,}"', image), image[:80]
    for chart in re.findall(r"<svg[^>]*>", text):
        assert 'aria-hidden="true"' in chart or re.search(r'aria-label="[^"]{10,}"', chart), chart


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme):
    """WCAG 2.1, 1.4.3: a contrast of 4.5 for text, in both colour schemes."""
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", blocks[0 if scheme == "light" else 1]))

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [("ink", "page"), ("ink", "card"), ("muted", "page"), ("muted", "card"),
             ("accent", "page"), ("accent", "card"), ("on-accent", "accent"), ("ink", "right")]  # fmt: skip
    for text, ground in pairs:
        lighter, darker = sorted(
            (luminance(colours[text]), luminance(colours[ground])), reverse=True
        )
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (scheme, text, ground)


def test_the_figures_are_those_of_the_metrics_and_unreadable_videos_count():
    facts = make_facts(5, 40)
    text = " ".join(re.sub("<[^>]+>", "|", page.render(facts, [])).split())
    right = round(facts.metrics.top1 * 40)
    assert f"{right} of 40 videos right. 1 could not be read, which counts as wrong." in text
    assert f"|{100 * facts.metrics.top1:.1f}|" in text
    assert str(facts.intervals["top1"]) in text
    assert facts.manifest.fingerprint in text
    assert "clip-0000|" in text


def test_measuring_on_the_training_videos_is_said_aloud():
    facts = make_facts()
    warned = replace(facts, meta=replace(facts.meta, fingerprint=facts.manifest.fingerprint))
    assert "so the figures say nothing" not in page.render(facts, [])
    assert "so the figures say nothing" in page.render(warned, [])


def test_hundreds_of_classes_are_a_picture_a_search_and_a_bounded_page():
    text = page.render(make_facts(400, 4000), [])
    assert 'id="heat"' in text
    assert 'id="search"' in text
    assert text.count('class="bar-cell"') == 400
    assert len(text) < 1_000_000
    assert 'id="heat"' not in page.render(make_facts(5, 40), [])


def test_a_network_that_read_nothing_or_a_run_without_a_record_still_makes_a_page():
    facts = make_facts(5, 12)
    nothing = np.zeros(12, dtype=bool)
    scores = Scores(np.zeros((12, 5)), nothing, facts.scores.failures)
    blind = replace(
        facts, scores=scores, metrics=measure(scores.scores_NK, facts.labels_N, nothing),
        record=type(facts.record)(complete=False),
    )  # fmt: skip
    text = page.render(blind, [])
    assert "No video could be read" in text
    assert "record is not on this machine" in text


def test_one_class_and_one_video_make_a_page():
    assert "<h1>" in page.render(make_facts(1, 2), [])


def test_frames_of_the_hardest_are_read_and_a_lost_file_costs_only_its_picture(tmp_path):
    there = tmp_path / "clip.mp4"
    encode(there, draw_video(0, np.random.default_rng(0), size=48, num_frames=8))
    facts = make_facts(5, 40, paths=(there, tmp_path / "gone.mp4"))
    videos = hardest(facts.manifest, facts.scores.scores_NK, facts.scores.readable_N, limit=6)
    assert len(videos) == 6
    for video in videos:
        assert (video.strip is not None) == (video.path == str(there))
        assert video.problem == "" if video.strip else "not_found" in video.problem
    files = pictures.draw(facts, videos, tmp_path)
    assert sorted(files) == ["calibration", "hardest", "speed", "training"]
    assert all(path.stat().st_size > 5000 for path in files.values())


def test_dollars_in_a_class_name_are_no_formula(tmp_path):
    classes = ["a $ b", "$\\frac$", "c" * 200]
    confusion = np.array([[2, 1, 0], [0, 2, 0], [1, 0, 3]])
    assert pictures.plot_confusion(tmp_path / "c.png", confusion, classes, "$").exists()
    assert pictures.plot_per_class(
        tmp_path / "p.png", [0.5, None, 1.0], [4, 0, 4], classes, "t"
    ).exists()


def test_ticks_are_round_and_inside():
    assert ticks(0, 1, 4) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0, 187_500, 5) == [0, 50_000, 100_000, 150_000]
    assert ticks(3, 3, 5) == [3]


def test_unequal_classes_come_rarest_first_with_what_was_done_for_them():
    facts = make_facts()
    counts = [10 * (number + 1) for number in range(len(facts.classes))][::-1]
    config = Config.from_dict({"data": {"balance": 0.5}, "optim": {"class_weights": "inverse"}})
    meta = replace(facts.meta, class_counts=counts, config=config.to_dict())
    page = sections.classes(make_facts(meta=meta))
    assert [row["trained_on"] for row in page["rows"]] == sorted(counts)
    assert "balance 0.5, class weights inverse" in page["lead"]
    equal = replace(facts.meta, class_counts=[10] * len(counts))
    assert sections.classes(make_facts(meta=equal))["lead"].startswith("The worst class is first")
