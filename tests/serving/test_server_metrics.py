# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""Metrics in Prometheus' format, one registry a server."""

from prometheus_client.parser import text_string_to_metric_families

from clip_hf.serving.server_metrics import ServerMetrics


def values_of(metrics: ServerMetrics) -> dict[tuple, float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def test_what_is_counted():
    metrics = ServerMetrics()
    metrics.observe_request("/v1/rank", 200, 0.02)
    metrics.observe_request("/v1/rank", 400, 0.2)
    metrics.observe_batch("text", 64, 1.5)
    metrics.observe_batch("text", 1, 0.25)
    metrics.observe_batch("image", 8, 2.0)
    metrics.set_pending(3, 40)
    metrics.count_rejected()
    metrics.count_cancelled()
    metrics.count_cancelled()
    values = values_of(metrics)
    assert values["clip_hf_requests_total", "/v1/rank", "200"] == 1
    assert values["clip_hf_requests_total", "/v1/rank", "400"] == 1
    assert values["clip_hf_request_seconds_sum", "/v1/rank"] == 0.22
    assert values["clip_hf_request_seconds_bucket", "/v1/rank", "0.025"] == 1
    assert values["clip_hf_batch_items_sum", "text"] == 65
    assert values["clip_hf_batch_items_count", "text"] == 2
    assert values["clip_hf_batch_seconds_total", "text"] == 1.75
    assert values["clip_hf_batch_items_sum", "image"] == 8
    assert values["clip_hf_pending_requests",] == 3
    assert values["clip_hf_pending_items",] == 40
    assert values["clip_hf_rejected_total",] == 1
    assert values["clip_hf_cancelled_total",] == 2


def test_servers_do_not_share_their_counts():
    one, other = ServerMetrics(), ServerMetrics()
    one.count_rejected()
    assert values_of(other)["clip_hf_rejected_total",] == 0
