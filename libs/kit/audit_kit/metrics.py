"""
Every metric of the product: its unit, what it means, and when to worry.

Labels are bounded by the code: a part, a route's template, a fixed word. Never a tenant, never an error's text.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

REGISTRY: Final = CollectorRegistry()
REGISTRY.register(GC_COLLECTOR)
REGISTRY.register(PLATFORM_COLLECTOR)
ProcessCollector(registry=REGISTRY)

_FAST: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SLOW: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

# HTTP, every part

HTTP_REQUESTS: Final = Counter(
    "auditlog_http_requests",
    "Requests answered, by part, route template and class of status (2xx to 5xx; 'gone': the client left first)."
    " Worry: 5xx above 0.1 % of a route.",
    ["part", "route", "status"],
    registry=REGISTRY,
)
HTTP_SECONDS: Final = Histogram(
    "auditlog_http_request_seconds",
    "Seconds from a request's head to the end of its answer, by part and route template."
    " Worry: p99 of POST /api/v1/logs above 0.25.",
    ["part", "route"],
    buckets=_FAST,
    registry=REGISTRY,
)
HTTP_IN_FLIGHT: Final = Gauge(
    "auditlog_http_requests_in_flight",
    "Requests that are being answered now. Worry: a level that only grows.",
    registry=REGISTRY,
)

# Identity

AUTHENTICATIONS: Final = Counter(
    "auditlog_authentications",
    "Credentials looked at, by kind (jwt, api_key, none) and outcome: cached, verified, refused (not genuine or not"
    " valid now), forbidden (genuine, without the right), unavailable (keys or tenants can't be read)."
    " Worry: refused that jumps (guessing, or a rotation gone wrong); any unavailable.",
    ["kind", "outcome"],
    registry=REGISTRY,
)
JWKS_REFRESHES: Final = Counter(
    "auditlog_jwks_refreshes",
    "Fetches of an issuer's keys, by outcome (done, failed). Worry: failed for longer than the issuer rotates keys.",
    ["outcome"],
    registry=REGISTRY,
)
DIRECTORY_READS: Final = Counter(
    "auditlog_directory_reads",
    "Tenants and keys looked up, by outcome: hit, missing (cached as not there), read, refused (too many unknown keys"
    " at once), failed. Worry: refused (someone is guessing keys); failed.",
    ["outcome"],
    registry=REGISTRY,
)

# Ingest

INGEST_ACCEPTED_EVENTS: Final = Counter(
    "auditlog_ingest_accepted_events",
    "Events acknowledged: durable in the queue. Worry: zero while producers run.",
    registry=REGISTRY,
)
INGEST_REFUSED_EVENTS: Final = Counter(
    "auditlog_ingest_refused_events",
    "Events not taken, by reason: invalid, too_large, rate_limited, unavailable."
    " Worry: unavailable above zero; invalid that jumps after a producer's release.",
    ["reason"],
    registry=REGISTRY,
)
INGEST_MASKED_VALUES: Final = Counter(
    "auditlog_ingest_masked_values",
    "Values masked before an event left the process. Worry: a drop to zero after a change of policy.",
    registry=REGISTRY,
)
INGEST_QUEUE_SEND_SECONDS: Final = Histogram(
    "auditlog_ingest_queue_send_seconds",
    "Seconds until the queue has a batch durably. Worry: p99 above 0.1.",
    buckets=_FAST,
    registry=REGISTRY,
)
INGEST_BATCH_EVENTS: Final = Histogram(
    "auditlog_ingest_batch_events",
    "Events in a sent batch. Worry: a median of 1 under load (single posts don't share batches).",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000),
    registry=REGISTRY,
)
INGEST_IN_FLIGHT_BYTES: Final = Gauge(
    "auditlog_ingest_in_flight_bytes",
    "Bytes of events taken in and not yet in the queue. Worry: near its bound, where posts are answered 503.",
    registry=REGISTRY,
)

# Projector

PROJECTOR_RECEIVED_EVENTS: Final = Counter(
    "auditlog_projector_received_events",
    "Events received from the queue, redeliveries included. Worry: far above appended plus repeated.",
    registry=REGISTRY,
)
PROJECTOR_APPENDED_EVENTS: Final = Counter(
    "auditlog_projector_appended_events",
    "Events written to the ledger. Worry: zero while ingest accepts.",
    registry=REGISTRY,
)
PROJECTOR_REPEATED_EVENTS: Final = Counter(
    "auditlog_projector_repeated_events",
    "Events dropped because the ledger had them. Worry: a lasting share above 1 %.",
    registry=REGISTRY,
)
PROJECTOR_DEAD_LETTERS: Final = Counter(
    "auditlog_projector_dead_letters",
    "Events and batches set aside, by reason: seal, event, batch. Worry: any.",
    ["reason"],
    registry=REGISTRY,
)
PROJECTOR_BATCH_SECONDS: Final = Histogram(
    "auditlog_projector_batch_seconds",
    "Seconds from a receive to its commit. Worry: p99 above 1.",
    buckets=_FAST,
    registry=REGISTRY,
)
PROJECTOR_LAG_SECONDS: Final = Gauge(
    "auditlog_projector_lag_seconds",
    "Age of the oldest event waiting in the queue. Worry: above 5 and growing.",
    registry=REGISTRY,
)
PROJECTOR_LAG_MESSAGES: Final = Gauge(
    "auditlog_projector_lag_messages",
    "Batches in the queue, in hand or waiting. Worry: growing for longer than a burst lasts.",
    registry=REGISTRY,
)
PROJECTOR_VISIBLE_SECONDS: Final = Histogram(
    "auditlog_projector_visible_seconds",
    "Seconds from an event's receipt by ingest to its commit. Worry: p99 above 0.25 at half load.",
    buckets=_SLOW,
    registry=REGISTRY,
)

# Query

QUERY_SECONDS: Final = Histogram(
    "auditlog_query_seconds",
    "Seconds of the database's work for one request, by route template. Worry: p99 above 0.1.",
    ["route"],
    buckets=_FAST,
    registry=REGISTRY,
)
QUERY_SCANNED_ROWS: Final = Histogram(
    "auditlog_query_scanned_rows",
    "Rows looked at for one page. Worry: a median near the scan budget (filters that spans can't narrow).",
    buckets=(10, 50, 100, 500, 1000, 5000, 10000, 50000, 100000),
    registry=REGISTRY,
)

# The audit of the audit log

ACCESS_RECORDS: Final = Counter(
    "auditlog_access_records",
    "Reads, changes and refused attempts recorded as events, by outcome: queued, summed (a repeat within the minute),"
    " failed. Worry: any failed; the read was answered 503, the attempt was refused unrecorded.",
    ["outcome"],
    registry=REGISTRY,
)
ADMIN_OUTBOX_MESSAGES: Final = Gauge(
    "auditlog_admin_outbox_messages",
    "Records of changes through admin that are committed and that the event queue is not known to have."
    " Worry: above zero for longer than the queue is down.",
    registry=REGISTRY,
)
ADMIN_OUTBOX_OLDEST_SECONDS: Final = Gauge(
    "auditlog_admin_outbox_oldest_seconds",
    "Age of the oldest of them. Worry: above 60.",
    registry=REGISTRY,
)
