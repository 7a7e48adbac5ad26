"""What all tests share."""

import os
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a machine that others use may stand still at any moment
settings.load_profile("untimed")


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


class Certificate(NamedTuple):
    """A certificate that signs itself, and its key, as PEM files."""

    cert: Path
    key: Path


def certificate_of(name: str, folder: Path) -> Certificate:
    """A new certificate.

    name: `IP:` or `DNS:` of the server whose it is.
    """
    made = Certificate(folder / "cert.pem", folder / "key.pem")
    kind = ("-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    who = ("-subj", "/CN=activeset", "-addext", f"subjectAltName={name}")
    subprocess.run(
        ["openssl", "req", *kind, *who, "-out", made.cert, "-keyout", made.key], check=True, capture_output=True
    )
    return made


def signed(by: Certificate, folder: Path, *, days: int = 2) -> Certificate:
    """A new certificate that another has signed. days: until it expires; less than 0, it has."""
    made, asked = Certificate(folder / "cert.pem", folder / "key.pem"), folder / "asked.pem"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", made.key)
    ca = ("-CA", by.cert, "-CAkey", by.key, "-set_serial", "1")
    for command in (
        ("req", "-new", *key, "-subj", "/CN=activeset", "-out", asked),
        ("x509", "-req", "-in", asked, *ca, "-days", str(days), "-out", made.cert),
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    return made


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of 127.0.0.1."""
    return certificate_of("IP:127.0.0.1", tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of a server elsewhere."""
    return certificate_of("DNS:elsewhere.example", tmp_path_factory.mktemp("other-certificate"))


@pytest.fixture
def taken_port() -> Generator[int]:
    """A port of 127.0.0.1 that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
