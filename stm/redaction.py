"""Secrets in URLs become ``***`` before a line reaches a terminal, a log, MLflow or a checkpoint's meta.

    redact("https://ann:pa55@host/x?token=abc&page=2")  ->  "https://***@host/x?token=***&page=2"

What is hidden: user and password before the host, and the values of query parameters that sign a request or open a
door (``X-Amz-Signature``, ``sig``, ``token``, ...). What is not: a secret that has no such place, such as one that
is part of a path, or a bare word. The right place for a secret is the environment or a node's role, never a setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

HIDDEN = "***"

# Up to the last @ before the path: a password may hold an @ of its own. Lengths are bounded, so that a long line costs
# no more than its length.
_USER_INFO = re.compile(r"([A-Za-z][\w+.-]{0,30}://)[^\s/?#'\"]+@")
_SECRET_NAMES = (
    r"[\w.%-]{0,40}(?:token|secret|passw(?:or)?d|pwd|credential|signature|api[_-]?key|access[_-]?key)[\w.%-]{0,40}"
    r"|x-amz-[\w-]{1,40}|x-goog-[\w-]{1,40}|awsaccesskeyid|googleaccessid|sig|key|auth|authorization"
)
_PARAMETER = re.compile(rf"(?i)([?&;](?:{_SECRET_NAMES})=)[^&;#\s'\"]+")


def redact(text: str) -> str:
    """``text`` with the secrets of the URLs in it hidden; the same object where there are none."""
    if "://" in text:
        text = _USER_INFO.sub(rf"\g<1>{HIDDEN}@", text)
    if "=" in text and ("?" in text or "&" in text):
        text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    return text


_HARMFUL = re.compile(  # controls, what turns the order of letters around (bidi), and bytes that are no text
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """``text`` as a terminal, a log or a page may show it: names of files and classes can hold anything.

    Control characters but line ends and tabs are written as escapes, so that none of them moves a cursor, and none of
    those that turn text around (bidi) makes a name look like another. The same object where there are none.
    """
    return _HARMFUL.sub(_escape, text) if _HARMFUL.search(text) else text


def one_line(text: str) -> str:
    """A name, as `harmless`, that cannot begin a line of its own."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a name that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found.group().encode("unicode_escape").decode()


def redacted(value: Any, also: Callable[[str], str] = str) -> Any:
    """A copy of plain data (dicts, lists, scalars, as in YAML) with every string redacted, keys excepted.

    ``also`` is done to each of the strings, too, such as `harmless`.
    """
    if isinstance(value, str):
        return also(redact(value))
    if isinstance(value, dict):
        return {key: redacted(each, also) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each, also) for each in value]
    return value


def secrets_in(values: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted names of the settings that hold a secret."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += secrets_in(value, f"{prefix}{key}.")
        elif redacted(value) != (list(value) if isinstance(value, tuple) else value):
            found.append(f"{prefix}{key}")
    return found
