"""HTML that escapes all text by default: pages from Jinja2 templates, and elements from `tag`.

    page_of("stm.report", "report.html", "report", title="<script>")     a whole page that includes its css and js
    tag("td", "<script>", class_="name")                                 <td class="name">&lt;script&gt;</td>

`Html` is markup, and a plain ``str`` is text, such as a class name, a path or a decoder's message. Secrets in URLs are
hidden (``stm.redaction``), because people share reports.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup as Html
from markupsafe import escape

from stm.plural import counted
from stm.redaction import harmless, redact, redacted

_VOID = {"img", "input", "meta", "br"}


def page_of(package: str, template: str, name: str, **values: Any) -> str:
    """Render a template of the package's ``templates`` folder.

    The template gets ``values``, and the contents of ``name.css`` and ``name.js`` as ``style`` and ``script``.
    """
    environment = _environment(package)
    values |= {
        "style": Html(asset(package, f"{name}.css")),
        "script": Html(asset(package, f"{name}.js")),
    }
    return environment.get_template(template).render(values)


@functools.cache
def asset(package: str, name: str) -> str:
    """Return the text of a file in the package's ``templates`` folder."""
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def script_source(package: str, name: str) -> str:
    """Return the source, a hash, by which a Content-Security-Policy allows the script ``name`` in the page."""
    digest = hashlib.sha256(asset(package, name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@functools.cache
def _environment(package: str) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": "{:,}".format, "counted": _counted}
    return environment


def _counted(number: int, noun: str) -> str:
    return counted(number, noun, ",")


def _shown(value: object) -> object:
    """Return what a template's expression writes: markup unchanged, None as nothing, text without secrets."""
    if value is None:
        return ""
    return value if isinstance(value, Html) else harmless(redact(str(value)))


def percent(share: float, digits: int = 1) -> str:
    """Return a share as text: 0.125 is "12.5 %"."""
    return f"{100 * share:.{digits}f} %"


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element. Children that are not `Html` are escaped, and None is left out.

    In an attribute's name, a trailing underscore is dropped and others become hyphens (``class_``, ``aria_label``). An
    attribute of None or False is left out, and one of True has no value. Floats are rounded to two decimals.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: object) -> Html:
    """Concatenate children; those that are not `Html` are escaped."""
    return Html("".join(escape(_shown(child)) for child in children))


def data_block(identity: str, value: Any) -> Html:
    """Return a block of JSON for the page's script; its text cannot close the block."""
    text = json.dumps(redacted(value, harmless), separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return tag("script", Html(text), type="application/json", id=identity)


def data_uri(content: bytes, kind: str) -> str:
    """Return the URI of an image that is embedded in the page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-") if key != "viewBox" else key
    if value is None or value is False:
        return ""
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(harmless(redact(text)))}"'
