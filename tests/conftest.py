"""What all tests share."""

import os
import socket
from collections.abc import Generator
from pathlib import Path

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


# What may be set around the tests: which Kafka they use, or how the local one is started.
SET = {name: os.environ[name] for name in os.environ if name.startswith("ACTIVESET_")}
OURS: dict[str, str] = {name: SET[name] for name in ("ACTIVESET_CACHE_DIR", "ACTIVESET_JAVA") if name in SET}
NAMED_BROKER = SET.get("ACTIVESET_BROKER")


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other setting reaches the programs that the tests start."""
    for name in SET.keys() - OURS.keys():
        monkeypatch.delenv(name)


def pytest_report_header(config: pytest.Config) -> str:
    """Which Kafka the broker tests talk to."""
    return f"kafka: {NAMED_BROKER or 'a local one, started by the tests'}"


def fake_java(path: Path, version: str) -> Path:
    """A program that says it is a Java of this version."""
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def taken_port() -> Generator[int]:
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
