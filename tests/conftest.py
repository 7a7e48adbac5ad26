"""What all tests share."""

import os
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped: a test that would be has failed."""
    report = yield
    if os.environ.get("CI") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set around the tests does not reach the programs that they start."""
    for name in [name for name in os.environ if name.startswith("ACTIVESET_")]:
        monkeypatch.delenv(name)


def pytest_report_header(config: pytest.Config) -> str:
    """Which Kafka the broker tests talk to."""
    named: Any = os.environ.get("ACTIVESET_BROKER")
    return f"kafka: {named or 'a local one, started by the tests'}"
