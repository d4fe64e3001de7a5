"""The page on which you drop a video: one file that loads nothing from elsewhere, in light and dark."""

from __future__ import annotations

from stm.markup import page_of, script_source

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'unsafe-inline'; script-src {script_source('stm.serve', 'page.js')}; "
    "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(label: str, num_classes: int, max_bytes: int) -> str:
    """Return the page as HTML. ``label`` names the model. The browser checks ``max_bytes`` before it sends a file."""
    return page_of(
        "stm.serve",
        "page.html",
        "page",
        label=label,
        num_classes=num_classes,
        max_bytes=max_bytes,
        largest=f"{max_bytes / 2**20:g} MiB",
    )
