"""Metrics say what they are and when to worry, and their labels are bounded."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from audit_kit import metrics

LABELS = {"part", "route", "status", "kind", "outcome", "reason"}
OURS = {name: metric for name, metric in vars(metrics).items() if isinstance(metric, Counter | Gauge | Histogram)}


def test_each_metric_has_a_meaning_and_a_reason_to_worry() -> None:
    assert OURS
    for name, metric in OURS.items():
        (family,) = metric.describe()
        assert family.name.startswith("auditlog_"), name
        assert "Worry:" in family.documentation, name


def test_labels_are_words_of_the_code_and_never_a_tenant() -> None:
    for name, metric in OURS.items():
        assert set(metric._labelnames) <= LABELS, name
