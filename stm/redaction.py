"""Secrets in URLs become ``***`` before a line reaches a terminal, a log, MLflow or a checkpoint's meta.

    redact("https://ann:pa55@host/x?token=abc&page=2")  ->  "https://***@host/x?token=***&page=2"

What is hidden: user and password before the host, and the values of query parameters that sign a request or open a
door (``X-Amz-Signature``, ``sig``, ``token``, ...). What is not: a secret that has no such place, such as one that
is part of a path, or a bare word. The right place for a secret is the environment or a node's role, never a setting.
"""

from __future__ import annotations

import re
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


def redacted(value: Any) -> Any:
    """A copy of plain data (dicts, lists, scalars, as in YAML) with every string redacted, keys excepted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each) for each in value]
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
