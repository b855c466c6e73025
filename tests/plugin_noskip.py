"""On CI a skipped test is a failed test: loaded with `-p tests.plugin_noskip`, at work when `CI` is set.

Expected failures are not skips. A module that skips itself while it is collected counts too.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest


def _is_on_ci() -> bool:
    return bool(os.environ.get("CI"))


def _fail(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
    report.outcome = "failed"
    report.longrepr = f"a skip is a failure on CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the report of a skipped test into that of a failed one."""
    report = yield
    if _is_on_ci() and report.skipped and not hasattr(report, "wasxfail"):
        _fail(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the report of a module that skipped itself into that of a failed one."""
    report = yield
    if _is_on_ci() and report.skipped:
        _fail(report)
    return report
