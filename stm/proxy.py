"""The proxies of the environment (``http_proxy``, ...): bypass them for this machine, and name them in errors."""

from __future__ import annotations

import os
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from stm.redaction import redact

_HERE = ("localhost", "127.0.0.1", "::1")


def spare_this_machine() -> None:
    """Add this machine to ``no_proxy`` if a proxy is set, for this process and its children; idempotent.

    A proxy on another machine would connect to itself. Ray would not find the dashboard, and so would not free the CPUs
    of a trial; MLflow servers and stores on this machine would not be found either.
    """
    if not urllib.request.getproxies_environment():
        return
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = dict.fromkeys([*filter(None, known.split(",")), *_HERE])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def named(url: str) -> str:
    """Return what to append to the reason why ``url`` did not answer: the proxy, or "" if none is used for it."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    bypassed: Any = getattr(urllib.request, "proxy_bypass_environment")  # noqa: B009  (typeshed does not know it)
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or parts.scheme not in ("http", "https") or bypassed(parts.netloc, proxies):
        return ""
    return (
        f" (reached through the proxy {redact(proxy)}; no_proxy={parts.hostname} connects directly)"
    )
