"""Replace secrets in URLs by ``***`` before text reaches a terminal, a log, MLflow or a checkpoint's metadata.

    redact("https://ann:pa55@host/x?token=abc&page=2")  ->  "https://***@host/x?token=***&page=2"

This hides the user and password before the host, and the values of query parameters that sign a request or grant access
(``X-Amz-Signature``, ``sig``, ``token``, ...). It does not hide other secrets, such as one in a path or a bare word.
Secrets belong in the environment or in a node's role, never in a setting.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

HIDDEN = "***"

# Up to the last @ before the path, since a password may contain one. Lengths are bounded, so that the time is linear in
# the length of a line.
_USER_INFO = re.compile(r"([A-Za-z][\w+.-]{0,30}://)[^\s/?#'\"]+@")
_SECRET_NAMES = (
    r"[\w.%-]{0,40}(?:token|secret|passw(?:or)?d|pwd|credential|signature|api[_-]?key|access[_-]?key)[\w.%-]{0,40}"
    r"|x-amz-[\w-]{1,40}|x-goog-[\w-]{1,40}|awsaccesskeyid|googleaccessid|sig|key|auth|authorization"
)
_PARAMETER = re.compile(rf"(?i)([?&;](?:{_SECRET_NAMES})=)[^&;#\s'\"]+")


def redact(text: str) -> str:
    """Return ``text`` with the secrets in its URLs hidden; the same object if there are none."""
    if "://" in text:
        text = _USER_INFO.sub(rf"\g<1>{HIDDEN}@", text)
    if "=" in text and ("?" in text or "&" in text):
        text = _PARAMETER.sub(rf"\g<1>{HIDDEN}", text)
    return text


# Control characters, bidirectional controls, and surrogates (undecodable bytes).
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    """Return ``text`` in a form that is safe to show, since names of files and classes can contain any character.

    Control characters except line ends and tabs are escaped, so that none moves a cursor, and no bidirectional control
    makes a name look like another. Returns the same object if there are none.
    """
    return _HARMFUL.sub(_escape, text) if _HARMFUL.search(text) else text


def one_line(text: str) -> str:
    """Return ``text`` as from `harmless`, with line ends and tabs escaped too."""
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8 (surrogateescape)
        return f"\\x{code - 0xDC00:02x}"
    return found.group().encode("unicode_escape").decode()


def redacted(value: Any, also: Callable[[str], str] = str) -> Any:
    """Return a copy of plain data (dicts, lists, scalars, as in YAML) with every string redacted, except keys.

    ``also`` is applied to each string afterwards, for example `harmless`.
    """
    if isinstance(value, str):
        return also(redact(value))
    if isinstance(value, dict):
        return {key: redacted(each, also) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each, also) for each in value]
    return value


def secrets_in(values: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the settings that contain a secret."""
    found = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += secrets_in(value, f"{prefix}{key}.")
        elif redacted(value) != (list(value) if isinstance(value, tuple) else value):
            found.append(f"{prefix}{key}")
    return found
