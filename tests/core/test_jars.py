import errno
import hashlib
import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from deploy import jars
from deploy.jars import Jar
from streams.errors import BadSettings, KafkaUnavailable

CONTENT = b"the bytes of a jar" * 1000
ONE = Jar(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "org.example:one:1.0")


TWO = Jar(ONE.sha256, ONE.size, "org.example:two:1.0")


class Repository(SimpleHTTPRequestHandler):
    """A Maven repository, on files."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A Maven repository that has the jars."""
    for name in ("one", "two"):
        path = tmp_path / "repository" / "org" / "example" / name / "1.0" / f"{name}-1.0.jar"
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT)
    handler = partial(Repository, directory=str(tmp_path / "repository"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever).start()
        yield {"test": f"http://127.0.0.1:{server.server_port}"}
        server.shutdown()


@pytest.fixture
def no_maven(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_jar_is_fetched_once_and_then_needs_no_network(tmp_path: Path, repository: dict[str, str]) -> None:
    [path] = jars.paths(tmp_path / "cache", [ONE])
    jars.ensure(tmp_path / "cache", [ONE], remotes=repository)
    assert path.read_bytes() == CONTENT

    assert jars.missing(tmp_path / "cache", [ONE]) == []
    jars.ensure(tmp_path / "cache", [ONE], remotes={"gone": "http://127.0.0.1:1"})


@pytest.mark.parametrize("damage", [b"", CONTENT[:100], CONTENT[::-1]])
def test_a_jar_that_is_not_the_listed_file_is_fetched_again(
    tmp_path: Path, repository: dict[str, str], damage: bytes
) -> None:
    [path] = jars.paths(tmp_path / "cache", [ONE])
    jars.ensure(tmp_path / "cache", [ONE], remotes=repository)
    path.write_bytes(damage)

    jars.ensure(tmp_path / "cache", [ONE], remotes=repository)

    assert path.read_bytes() == CONTENT


def test_what_is_fetched_and_is_another_file_is_refused(
    tmp_path: Path, repository: dict[str, str], no_maven: None
) -> None:
    other = Jar("0" * 64, ONE.size, ONE.coordinates)

    with pytest.raises(KafkaUnavailable, match="jgo: what came is not the listed file"):
        jars.ensure(tmp_path / "cache", [other], remotes=repository)

    assert not list((tmp_path / "cache").rglob("*.jar"))


def test_a_jar_that_cannot_be_fetched_is_told_with_the_cure(tmp_path: Path, no_maven: None) -> None:
    with pytest.raises(KafkaUnavailable) as told:
        jars.ensure(tmp_path / "cache", [ONE], remotes={"gone": "http://127.0.0.1:1"})

    for part in ("one-1.0.jar", "jgo: ", "Maven: ", "Connect this machine to a network", "ACTIVESET_BROKER"):
        assert part in str(told.value)


def test_a_cache_that_cannot_be_written_or_is_full_is_named(
    tmp_path: Path, repository: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BadSettings, match="ACTIVESET_CACHE_DIR must be a folder with room .*Not a directory"):
        jars.ensure(tmp_path / "file" / "cache", [ONE], remotes=repository)

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(jars, "RESOLVERS", (("jgo", full), ("Maven", jars.by_jgo)))
    with pytest.raises(BadSettings, match=r"ACTIVESET_CACHE_DIR must .*one-1\.0\.jar \(No space left on device\)"):
        jars.ensure(tmp_path / "cache", [ONE], remotes=repository)


def test_an_error_of_maven_is_told_in_one_line() -> None:
    pages = RuntimeError(
        "Command failed\n[stdout]\n[INFO] Scanning\n\x1b[1;31m[ERROR]\x1b[m no such host\n[ERROR] help"
    )

    assert jars.gist(pages) == "[ERROR] no such host"


def test_maven_is_asked_where_jgo_fails_and_then_first(
    tmp_path: Path, repository: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def gone(_: object) -> None:
        asked.append("jgo")
        raise RuntimeError("no such host")

    monkeypatch.setattr(jars, "RESOLVERS", (("jgo", gone), ("Maven", jars.by_jgo)))

    jars.ensure(tmp_path / "cache", [ONE, TWO], remotes=repository)

    assert [path.read_bytes() for path in jars.paths(tmp_path / "cache", [ONE, TWO])] == [CONTENT, CONTENT]
    assert asked == ["jgo"]


def test_the_list_has_every_jar_that_was_wanted() -> None:
    listed = {jar.coordinates for jar in jars.listed()}

    assert listed >= set(jars.WANTED)
    assert all(len(jar.sha256) == 64 and jar.size > 1000 for jar in jars.listed())
