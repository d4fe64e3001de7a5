"""One page of an evaluation: a single HTML file that asks nothing of any network, and its figures as PNG.

The page forbids itself whatever it does not carry (Content-Security-Policy): no request, no script but its own.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from stm.report import background, pictures, sections
from stm.report.facts import Facts
from stm.report.hardest import HardVideo, hardest
from stm.report.markup import Html, join, tag
from stm.report.parts import percent
from stm.report.style import SCRIPT, STYLE


def write(facts: Facts, folder: Path) -> dict[str, str]:
    """Write ``report.html`` and PNG figures into ``folder``; returns their paths by kind, the page as "report"."""
    videos = hardest(facts.manifest, facts.scores.scores_NK, facts.scores.readable_N)
    files = pictures.draw(facts, videos, folder)
    path = folder / "report.html"
    path.write_text(render(facts, videos), encoding="utf-8")
    return {**{kind: str(file) for kind, file in files.items()}, "report": str(path)}


def render(facts: Facts, videos: list[HardVideo]) -> str:
    """The page as text."""
    title = f"{facts.run}: top-1 {percent(facts.metrics.top1)} on {facts.manifest.dataset}"
    parts = {
        "confusions": ("Confusions", sections.confusions(facts)),
        "classes-section": ("Classes", sections.classes(facts)),
        "confidence": ("Confidence", sections.confidence(facts)),
        "hardest": ("Hardest videos", sections.hardest(facts, videos)),
        "training": ("Training", background.training(facts)),
        "data": ("Data", background.data(facts)),
        "made": ("How it was made", background.provenance(facts)),
    }
    links = [tag("a", name, href=f"#{identity}") for identity, (name, _) in parts.items()]
    network = facts.meta.config.get("model", {})
    subject = (
        f"{str(network.get('variant', '')).upper()}-{network.get('depth', '')}, step {facts.meta.step:,}, on "
        f"{facts.metrics.num_videos:,} videos in {len(facts.classes)} classes, protocol {facts.protocol}"
    )
    main = tag(
        "main",
        tag("h1", f"{facts.run} on {facts.manifest.dataset}"),
        tag("p", subject, class_="lead"),
        sections.headline(facts),
        tag("nav", *links, aria_label="Sections"),
        *(part for _, part in parts.values()),
    )
    return f"<!doctype html>\n{_document(title, main)}\n"


def _document(title: str, main: Html) -> Html:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return tag("html", head, tag("body", main, join(tag("script", Html(SCRIPT)))), lang="en")
