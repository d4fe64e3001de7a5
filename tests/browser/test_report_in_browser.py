"""The report in a real browser: no error, no broken image, no request; light, dark, narrow, 5 and 400 classes."""

from __future__ import annotations

import numpy as np
import pytest

from stm.data.synthetic import draw_video, encode
from stm.report import page
from stm.report.hardest import hardest
from tests.browser.chromium import Chromium
from tests.report.makers import make_facts, with_time

pytestmark = pytest.mark.tool("chromium")

_WIDER_THAN_WINDOW = "document.documentElement.scrollWidth > innerWidth"


@pytest.fixture(scope="module")
def browser():
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Addresses of a report of 5 and one of 400 classes, both with the same frames."""
    folder = tmp_path_factory.mktemp("reports")
    clip = folder / "clip.mp4"
    encode(clip, draw_video(0, np.random.default_rng(0), size=48, num_frames=8))
    videos: list = []
    addresses = {}
    for num_classes, num_videos in ((5, 40), (400, 4000)):
        classes = [f"Putting [something] into [something] {i:03d}" for i in range(num_classes)]
        pairs = [(2 * k, 2 * k + 1) for k in range(num_classes // 2)]
        facts = with_time(make_facts(num_classes, num_videos, classes, paths=(clip,)), pairs)
        videos = videos or hardest(facts.manifest, facts.scores.scores_NK, facts.scores.readable_N)
        path = folder / f"{num_classes}.html"
        path.write_text(page.render(facts, videos), encoding="utf-8")
        addresses[num_classes] = f"file://{path}"
    return addresses


@pytest.mark.parametrize("num_classes", [5, 400])
@pytest.mark.parametrize(("width", "dark"), [(1100, False), (1100, True), (400, False)])
def test_a_report_opens_without_an_error_and_fits_the_window(
    browser, reports, tmp_path, num_classes, width, dark
):
    opened = browser.open(reports[num_classes], width=width, dark=dark)
    assert opened.errors == []
    assert opened.run("document.images.length") >= 12
    assert not opened.run(_WIDER_THAN_WINDOW)
    ground = opened.run("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
    assert len(opened.screenshot(tmp_path / "page.png")) > 20_000


def test_searching_the_classes_leaves_those_that_match(browser, reports):
    opened = browser.open(reports[400])
    visible = "document.querySelectorAll('#classes tbody tr:not([hidden])').length"
    assert opened.run(visible) == 400
    opened.run("search.value = 'SOMETHING] 123'; search.dispatchEvent(new Event('input'))")
    named = "Array.from(document.querySelectorAll('#classes tbody tr:not([hidden])')).filter("
    assert opened.run(f"{named}r => r.cells[0].textContent.endsWith('123')).length") == 1
    assert opened.run(visible) < 20
    assert opened.errors == []


def test_pointing_at_the_heat_map_names_the_cell(browser, reports):
    opened = browser.open(reports[400])
    opened.run("heat.scrollIntoView({block: 'center', behavior: 'instant'})")
    x, y, side = opened.run(
        "(() => { const b = heat.getBoundingClientRect(); return [b.left, b.top, b.width]; })()"
    )
    opened.hover(x + side * 100.5 / 400, y + side * 100.5 / 400)
    assert opened.run("readout.textContent").endswith(" right")
    opened.hover(x + side * 300.5 / 400, y + side * 100.5 / 400)
    assert " taken for " in opened.run("readout.textContent")


def test_the_driver_hears_errors_requests_and_broken_images(browser, tmp_path):
    """Else the tests above could not fail."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<img src='data:image/png;base64,AAAA'><img src='http://127.0.0.1:9/x.png'>"
        "<script>console.error('oh'); undefined.no</script>"
    )
    said = " ".join(browser.open(f"file://{bad}").errors)
    for expected in (
        "broken image data:",
        "foreign request: http://127.0.0.1:9",
        "'oh'",
        "exception",
    ):
        assert expected in said, said
