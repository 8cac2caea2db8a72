"""Logs are lines of JSON with the request's trace, and never carry a credential or a body."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit_contracts.principal import Role
from audit_kit.auth.api_keys import new_api_key
from audit_kit.auth.dev_issuer import DevIssuer
from audit_kit.logs import configure_logs
from audit_kit.tracing import begin_trace
from tests.kit_world import ACME


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_a_log_is_an_event_with_keys_and_the_trace(stream: io.StringIO) -> None:
    configure_logs(level="info", format="json", stream=stream)
    trace = begin_trace(None)
    structlog.get_logger("here").info("batch_appended", tenant="acme", count=3)
    (line,) = lines(stream)
    assert {name: line[name] for name in ("event", "tenant", "count", "level", "logger")} == {
        "event": "batch_appended",
        "tenant": "acme",
        "count": 3,
        "level": "info",
        "logger": "here",
    }
    assert line["trace_id"] == trace.trace_id
    assert line["timestamp"].endswith("Z")


def test_libraries_log_alike_and_the_level_holds_for_all(stream: io.StringIO) -> None:
    configure_logs(level="warning", format="json", stream=stream)
    logging.getLogger("uvicorn.error").warning("port %d", 80)
    logging.getLogger("uvicorn.error").info("unseen")
    structlog.get_logger().info("unseen")
    logging.getLogger("httpx").warning("seen")
    assert [(line["event"], line["level"]) for line in lines(stream)] == [("port 80", "warning"), ("seen", "warning")]


def test_no_credential_gets_into_a_log(stream: io.StringIO) -> None:
    configure_logs(level="debug", format="json", stream=stream)
    key = new_api_key(ACME, uuid4()).text
    token = DevIssuer(Ed25519PrivateKey.generate()).mint(tenant=ACME, subject="a", role=Role.USER, now_s=1)
    log = structlog.get_logger()
    sentence = f"sent {token}"
    log.info(sentence, authorization=f"Basic {key[-20:]}", url="postgresql://ann:hunter2@db/auditlog")
    log.info("nested", request={"headers": [f"Bearer {token}", key], "password": "hunter2", "size": 3})
    log.info("raw", got=token.encode(), secret="hunter2", nothing=None)
    try:
        raise ValueError(f"bad credential {key}")
    except ValueError:
        log.exception("failed")
    logging.getLogger("library").error("with %s", key)
    text = stream.getvalue()
    for secret in (key, token, key[-20:], "hunter2", token.split(".")[1]):
        assert secret not in text
    assert "postgresql://[redacted]@db/auditlog" in text
    assert '"size": 3' in text


def test_people_get_columns(stream: io.StringIO) -> None:
    configure_logs(level="info", format="console", stream=stream)
    structlog.get_logger().info("listening", url="http://127.0.0.1:8080", token="hunter2")
    assert "listening" in stream.getvalue()
    assert "url=http://127.0.0.1:8080" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
