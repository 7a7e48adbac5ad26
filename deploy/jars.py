"""The local Kafka's jars: listed in `kafka.jars` with size and SHA-256, fetched once, checked at every start."""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import requests
from jgo.maven import Artifact, MavenContext, MvnResolver, PythonResolver

from streams.errors import BadSettings, KafkaUnavailable
from streams.lock import held

VERSION = "4.3.1"
# Kafka's own tree pins slf4j 1.7 and brings no logger for it.
WANTED = (f"org.apache.kafka:kafka_2.13:{VERSION}", "org.slf4j:slf4j-simple:1.7.36")
LIST = Path(__file__).with_name("kafka.jars")

# Told how many jars and bytes are to come; what it answers is told how many bytes have arrived.
Arrived = Callable[[int], None]
Progress = Callable[[int, int], AbstractContextManager[Arrived]]
# A name for people, and what downloads an artifact into its context's cache.
Resolver = tuple[str, Callable[[Artifact], None]]


@contextmanager
def in_silence(_jars: int, _bytes: int) -> Iterator[Arrived]:
    """Progress that nobody watches."""
    yield lambda _bytes: None


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of `kafka.jars`: what the file must be, and its Maven coordinates."""

    sha256: str
    size: int
    coordinates: str

    @classmethod
    def read(cls, line: str) -> Self:
        """The jar that a line tells of."""
        sha256, size, coordinates = line.split()
        return cls(sha256, int(size), coordinates)

    def __str__(self) -> str:
        return f"{self.sha256} {self.size:>9} {self.coordinates}"

    def is_at(self, path: Path) -> bool:
        """Whether this very file is there."""
        return path.is_file() and path.stat().st_size == self.size and digest(path) == self.sha256


def listed() -> list[Jar]:
    """The jars that make Kafka, in class path order."""
    return [Jar.read(line) for line in LIST.read_text().splitlines() if line and not line.startswith("#")]


def paths(cache: Path, jars: Sequence[Jar]) -> list[Path]:
    """Where the jars are in a cache, or would be."""
    return [path_of(artifact) for artifact in artifacts(cache, jars)]


def missing(cache: Path, jars: Sequence[Jar]) -> list[Jar]:
    """The jars that are not in a cache, or are not what they should be there."""
    return [jar for jar, path in zip(jars, paths(cache, jars), strict=True) if not jar.is_at(path)]


def ensure(
    cache: Path, jars: Sequence[Jar], *, remotes: Mapping[str, str] | None = None, progress: Progress = in_silence
) -> None:
    """Fetch the jars that are missing in a cache. Programs that start side by side fetch once.

    remotes: Maven repositories by name; Maven Central, if none are given.
    progress: shown what has to be fetched.

    Raises:
        BadSettings: the cache cannot be written.
        KafkaUnavailable: a jar can be fetched neither by jgo nor by Maven, or what arrives is another file.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(cache / "lock", wait=True))
        except OSError as why:
            raise unwritable(cache, why) from why
        absent = missing(cache, jars)
        if not absent:
            return
        arrived = stack.enter_context(progress(len(absent), sum(jar.size for jar in absent)))
        resolvers = list(RESOLVERS)
        for jar, artifact in zip(absent, artifacts(cache, absent, remotes), strict=True):
            worked = fetch(jar, artifact, path_of(artifact), resolvers)
            resolvers.sort(key=lambda each: each is not worked)  # first the one that can, for the rest
            arrived(jar.size)


def artifacts(cache: Path, jars: Sequence[Jar], remotes: Mapping[str, str] | None = None) -> list[Artifact]:
    """The jars as jgo knows them."""
    context = MavenContext(
        PythonResolver(), repo_cache=cache, remote_repos=dict(remotes) if remotes else None, timeout=60
    )
    return [context.create_dependency(jar.coordinates).artifact for jar in jars]


def fetch(jar: Jar, artifact: Artifact, path: Path, resolvers: Sequence[Resolver]) -> Resolver:
    """Fetch one jar with the first of the resolvers that can; the answer is which that was."""
    troubles = []
    for resolver in resolvers:
        name, download = resolver
        path.unlink(missing_ok=True)  # jgo believes a file that is there, even half of one
        try:
            download(artifact)
        except (OSError, RuntimeError, AssertionError) as why:  # jgo asserts what it found
            if isinstance(why, OSError) and not isinstance(why, requests.RequestException):
                raise unwritable(path, why) from why
            troubles.append(f"{name}: {gist(why)}")
            continue
        if jar.is_at(path):
            return resolver
        troubles.append(f"{name}: what came is not the listed file")
        path.unlink(missing_ok=True)
    raise KafkaUnavailable(
        f"{path.name}, a part of the local Kafka, could not be fetched ({'; '.join(troubles)}). Connect this machine "
        "to a network and try again, or set ACTIVESET_BROKER to the host:port of a Kafka that runs"
    )


def unwritable(path: Path, why: OSError) -> BadSettings:
    """What to say where the cache will not take a file."""
    return BadSettings(
        f"ACTIVESET_CACHE_DIR must be a folder with room that can be written, not {path} ({why.strerror})"
    )


def gist(why: Exception) -> str:
    """The one line of an error that tells most: requests and Maven say pages."""
    if isinstance(why, requests.RequestException):
        return f"no connection ({type(why).__name__})"
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(why))
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return next((line for line in lines if "ERROR" in line), lines[0] if lines else type(why).__name__)[:300]


def by_jgo(artifact: Artifact) -> None:
    """Fetch an artifact with jgo alone."""
    PythonResolver().download(artifact)


def by_maven(artifact: Artifact) -> None:
    """Fetch an artifact with the `mvn` of this machine, if there is one."""
    mvn = shutil.which("mvn")
    if mvn is None:
        raise RuntimeError("not on this machine")
    MvnResolver(Path(mvn)).download(artifact)


# The machine's Maven is second: it knows the user's mirrors and proxies, but takes up to 10 s for each jar.
RESOLVERS: tuple[Resolver, ...] = (("jgo", by_jgo), ("Maven", by_maven))


def resolve(cache: Path) -> list[Jar]:
    """What the coordinates above need, asked of Maven Central; what `python -m deploy jars` writes into the list."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as why:
        raise unwritable(cache, why) from why
    context = MavenContext(PythonResolver(), repo_cache=cache, timeout=60)
    inputs, more = context.resolver.resolve([context.create_dependency(each) for each in WANTED])
    jars = []
    for each in (*inputs, *(one for one in more if one.scope in ("compile", "runtime"))):
        path = each.artifact.resolve()
        coordinates = f"{each.groupId}:{each.artifactId}:{each.version}"
        jars.append(Jar(digest(path), path.stat().st_size, coordinates))
    return jars


def path_of(artifact: Artifact) -> Path:
    """Where a jar is in the cache, or would be."""
    path = artifact.cached_path
    assert path is not None  # the context has a cache
    return path


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
