"""What every section is made of: headings, tables that scroll in a box of their own, percentages."""

from __future__ import annotations

from collections.abc import Collection

from stm.report.markup import Html, tag


def percent(share: float, digits: int = 1) -> str:
    """0.125 -> "12.5 %"."""
    return f"{100 * share:.{digits}f} %"


def section(identity: str, title: str, lead: str, *children: Html | None) -> Html:
    """A headed part of the page; ``lead`` says how to read it."""
    said = tag("p", lead, class_="lead") if lead else None
    return tag("section", tag("h2", title), said, *children, id=identity)


def scroll_box(child: Html, tall: bool = False) -> Html:
    """Where the window is narrow the box scrolls, not the page; a tall one scrolls downwards, too."""
    return tag(
        "div", child, class_="scroll tall" if tall else "scroll", tabindex="0", role="group",
        aria_label="scrolls",
    )  # fmt: skip


def table(
    heads: list[str],
    rows: list[Html],
    numbers: Collection[int] = (),
    identity: str | None = None,
    tall: bool = False,
) -> Html:
    """A table with its head; ``numbers`` are the columns that are set to the right."""
    cells = [
        tag("th", head, scope="col", class_="number" if place in numbers else None)
        for place, head in enumerate(heads)
    ]
    whole = tag("table", tag("thead", tag("tr", *cells)), tag("tbody", *rows), id=identity)
    return scroll_box(whole, tall)
