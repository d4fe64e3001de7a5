"""Write the report of an evaluation: a single HTML file that needs no network, and its figures as PNG.

The page's Content-Security-Policy forbids requests, and scripts other than its own.
"""

from __future__ import annotations

from pathlib import Path

from stm.markup import page_of, percent, script_source
from stm.report import background, charts, pictures, sections
from stm.report.facts import Facts
from stm.report.hardest import HardVideo, hardest
from stm.storage import write_bytes


def write(facts: Facts, folder: Path) -> dict[str, str]:
    """Write ``report.html`` and PNG figures into ``folder``; return their paths by kind, the page as "report"."""
    videos = hardest(facts.manifest, facts.scores.scores_NK, facts.scores.readable_N)
    files = pictures.draw(facts, videos, folder)
    path = folder / "report.html"
    write_bytes(str(path), render(facts, videos).encode())
    return {**{kind: str(file) for kind, file in files.items()}, "report": str(path)}


def render(facts: Facts, videos: list[HardVideo]) -> str:
    """Return the page as text."""
    source = script_source("stm.report", "report.js")
    network = facts.meta.config.get("model", {})
    return page_of(
        "stm.report",
        "report.html",
        "report",
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {source}",
        title=f"{facts.run}: top-1 {percent(facts.metrics.top1)} on {facts.manifest.dataset}",
        network=f"{str(network.get('variant', '')).upper()}-{network.get('depth', '')}",
        facts=facts,
        headline=sections.headline(facts),
        confusions=sections.confusions(facts),
        classes=sections.classes(facts),
        time=sections.time(facts),
        hardest=sections.hardest(facts, videos),
        reliability=facts.calibration and charts.reliability(facts.calibration),
        training=background.training(facts),
        data=background.data(facts),
        made=background.provenance(facts),
    )
