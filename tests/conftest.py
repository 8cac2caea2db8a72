"""What holds for every test: how Hypothesis runs, and that CI skips nothing it was not told of."""

from __future__ import annotations

import os
from collections.abc import Generator

import hypothesis
import pytest

from tests import cloudtrail_data

pytest_plugins = ["tests.services"]

IN_CI = os.environ.get("CI") == "true"

ONLY_AS_ROOT = {"a disk that can be filled needs root to mount it", "only root starts the server as another user"}
EXPECTED_SKIPS = frozenset({cloudtrail_data.MISSING}) | (frozenset() if os.geteuid() == 0 else ONLY_AS_ROOT)
"""Reasons, verbatim, for which a test may be skipped in CI. Any other skip fails: a test that runs no more is red."""

# The machine is shared and slow at times: an example that takes long is no failure, a hang is caught by the timeout.
hypothesis.settings.register_profile("house", deadline=None, print_blob=True)
# CI tries the same examples each time, so that what landed is what was tried.
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("house"), derandomize=True)
hypothesis.settings.load_profile("ci" if IN_CI else "house")


def _fail_unexpected_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip whose reason is not expected into a failure; an xfail is none."""
    if not (IN_CI and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    reason = reason.removeprefix("Skipped: ")
    if reason not in EXPECTED_SKIPS:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, which expects no such skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_unexpected_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_unexpected_skip(report)
    return report
