"""Markup that cannot be forgotten to be escaped: text becomes markup only through `tag`.

    tag("td", "<script>", class_="name")      ->  <td class="name">&lt;script&gt;</td>

`Html` is markup; a plain ``str`` is text, wherever it comes from. Class names, paths and messages of decoders are text.
Secrets in URLs are hidden on the way (``stm.redaction``): a report is handed around.
"""

from __future__ import annotations

import html
import json
from typing import Any

from stm.redaction import redact, redacted

_VOID = {"img", "input", "meta", "br"}


class Html(str):
    """Markup that `tag` and `join` made."""


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """An element. Children that are not `Html` are escaped; None is nothing.

    An attribute's trailing underscore is dropped and others become hyphens (``class_``, ``aria_label``); a value of
    None or False leaves it out, True gives it without a value. Coordinates are cut to a hundredth of a pixel.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Children one after the other; those that are not `Html` are escaped."""
    return Html("".join(_escaped(child) for child in children if child is not None))


def data_block(identity: str, value: Any) -> Html:
    """A block of JSON that the page's script reads; nothing in it can end the block."""
    text = json.dumps(redacted(value), separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(f'<script type="application/json" id="{html.escape(identity)}">{text}</script>')


def _escaped(child: object) -> str:
    return str(child) if isinstance(child, Html) else html.escape(redact(str(child)))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-") if key != "viewBox" else key
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{html.escape(redact(text))}"'
