"""Counts and times of a server, in Prometheus's format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Meters:
    """The metrics of ``/metrics``. The server has one instance."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self, in_flight: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        self._uploads = Counter(
            "stm_uploads", "Uploads by answer", ["status", "reason"], registry=self._registry
        )
        self._seconds = Histogram(
            "stm_answer_seconds",
            "Time to an answer with scores",
            registry=self._registry,
            buckets=_SECONDS,
        )
        gauge = Gauge("stm_in_flight", "Uploads in progress", registry=self._registry)
        gauge.set_function(in_flight)

    def count(self, status: int, reason: str, seconds: float) -> None:
        """Count an answered upload. ``reason`` is one of a fixed set of codes, or ""."""
        self._uploads.labels(str(status), reason).inc()
        if status == 200:
            self._seconds.observe(seconds)

    def text(self) -> str:
        return generate_latest(self._registry).decode()
