# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Counts and times of a server, in the format that Prometheus reads."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    """Counts and times of one server. Each object has a registry of its own, so that servers do not share theirs."""

    CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
    """The media type of [`~ServerMetrics.render`]."""

    def __init__(self):
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "clip_hf_requests", "Requests that were answered.", ("route", "status"), registry=registry
        )
        self._seconds = Histogram(
            "clip_hf_request_seconds", "From a request to its answer.", ("route",), buckets=_SECONDS, registry=registry
        )
        self._batch_items = Histogram(
            "clip_hf_batch_items", "Items of a pass of the model.", ("kind",), buckets=_SIZES, registry=registry
        )
        self._batch_seconds = Counter(
            "clip_hf_batch_seconds", "Seconds in which the model ran.", ("kind",), registry=registry
        )
        self._rejected = Counter("clip_hf_rejected", "Requests refused with 429 or 503.", registry=registry)
        self._cancelled = Counter("clip_hf_cancelled", "Requests whose client went away.", registry=registry)
        self._refused_connections = Counter(
            "clip_hf_refused_connections", "Connections beyond those that there may be.", registry=registry
        )
        self._pending_items = Gauge("clip_hf_pending_items", "Admitted items without an answer.", registry=registry)
        self._pending_requests = Gauge("clip_hf_pending_requests", "Admitted requests.", registry=registry)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answer; `route` is the route's pattern, never what a client sent."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def observe_batch(self, kind: str, size: int, seconds: float) -> None:
        """Count a pass of the model."""
        self._batch_items.labels(kind).observe(size)
        self._batch_seconds.labels(kind).inc(seconds)

    def set_pending(self, requests: int, items: int) -> None:
        """Note what is admitted and not answered."""
        self._pending_requests.set(requests)
        self._pending_items.set(items)

    def count_rejected(self) -> None:
        """Count a request that was refused because there are too many."""
        self._rejected.inc()

    def count_refused_connection(self) -> None:
        """Count a connection that was closed because there are too many."""
        self._refused_connections.inc()

    def count_cancelled(self) -> None:
        """Count a request whose client went away before its answer."""
        self._cancelled.inc()

    def render(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
