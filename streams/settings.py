"""Everything an operator can set: environment variables that start with `ACTIVESET_`, read once."""

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from streams.errors import BadSettings

PREFIX = "ACTIVESET_"
NAME = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63}){0,126}\.?"  # of a host; an IPv4 address looks like one


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number from low to high, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"a whole number {low}..{high}")
        return int(text)

    return read


def one_of(*choices: str) -> Callable[[str], str]:
    """Reads one of some words, whatever their case."""

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError("one of " + ", ".join(choices))
        return text.lower()

    return read


def yes_or_no(text: str) -> bool:
    """Reads a truth value."""
    return one_of("yes", "no")(text) == "yes"


def addresses(text: str) -> str:
    """Reads `host:port`, or several with commas between; an IPv6 host stands in brackets.

    >>> addresses("kafka-1:9092, [::1]:9093")
    'kafka-1:9092,[::1]:9093'
    """
    each = [part.strip() for part in text.split(",")]
    for part in each:
        match = re.fullmatch(rf"(?:\[(.+)\]|{NAME}):([0-9]{{1,5}})", part)
        if not match or (match[1] and not is_ipv6(match[1])) or not 1 <= int(match[2]) <= 65535:
            raise ValueError("host:port, or several with commas between, each port 1..65535")
    return ",".join(each)


def host(text: str) -> str:
    """Reads a host name or an IP address, without a port."""
    if not re.fullmatch(NAME, text) and not is_ipv6(text):
        raise ValueError("a host name or an IP address, without a port")
    return text


def is_ipv6(text: str) -> bool:
    """Whether this is an IPv6 address."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def topic_prefix(text: str) -> str:
    """Reads what may stand in front of a topic's name in Kafka."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{0,100}", text):
        raise ValueError("at most 100 letters, digits, dots, hyphens and underscores")
    return text


def folder(text: str) -> Path:
    """Reads the path of a folder, which need not be there yet; `~` is the home folder."""
    try:
        path = Path(text).expanduser().absolute()
        if path.exists() and not path.is_dir():
            raise ValueError("the path of a folder")
    except (OSError, RuntimeError) as why:  # too long, or the home of a user who is not there
        raise ValueError("the path of a folder") from why
    return path


def class_path_folder(text: str) -> Path:
    """Reads the path of a folder that can stand in a Java class path."""
    if ":" in text:
        raise ValueError("the path of a folder, without a colon")
    return folder(text)


def file(what: str) -> Callable[[str], Path]:
    """Reads the path of a file that is there.

    what: is in the file.
    """

    def read(text: str) -> Path:
        try:
            path = Path(text).expanduser().absolute()
            if path.is_file():
                return path
        except (OSError, RuntimeError):  # too long, or the home of a user who is not there
            pass
        raise ValueError(f"the path of {what}")

    return read


class Row(NamedTuple):
    """One line of the README's table of settings."""

    variable: str
    default: str
    meaning: str


def setting(default: object, read: Callable[[str], object], meaning: str) -> Any:
    """A field of `Settings`.

    read: turns the variable's text into its value, or raises a ValueError that says what the value must be.
    """
    return field(default=default, metadata={"read": read, "meaning": meaning})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What an operator can set, with defaults that suit a laptop."""

    broker: str = setting(
        "", addresses, "Kafka's `host:port`, or several with commas between; unset, `make` starts one"
    )
    topic_prefix: str = setting("", topic_prefix, "stands before every topic and the consumer group, to share a Kafka")
    partitions: int = setting(8, whole(1, 1024), "partitions of every topic; fixed once the topics are there")
    replication: int = setting(1, whole(1, 9), "replication factor of the topics that are created; 3 in production")
    create_topics: bool = setting(True, yes_or_no, "`no`: the topics must be there, and the start says which are not")
    session_timeout_s: int = setting(10, whole(6, 300), "seconds until a worker that died is noticed")
    stall_s: int = setting(
        60,
        whole(10, 3600),
        "seconds without progress, with something to do, after which a worker ends; over 30 in earnest",
    )
    batch_patience_s: int = setting(
        600,
        whole(1, 31_536_000),
        "seconds after its last chunk when a batch of which chunks are missing counts without them",
    )
    rocksdb_cache_mib: int = setting(
        256, whole(8, 1_048_576), "MiB that the worker's RocksDBs keep of what they have read, all together"
    )
    rocksdb_buffer_mib: int = setting(
        256, whole(16, 1_048_576), "MiB of rows that they hold before these are in files, all together"
    )
    queue_records: int = setting(
        16, whole(1, 10_000), "records of each topic that wait in memory to be applied, before no more are fetched"
    )
    fetch_mib: int = setting(16, whole(4, 1024), "MiB that Kafka is asked for at once")
    data_dir: Path | None = setting(
        None, folder, "the worker's RocksDB, a folder for each worker; unset, `worker` under `ACTIVESET_STATE_DIR`"
    )
    web_bind: str = setting("127.0.0.1", host, "address the worker's web server listens on")
    web_host: str = setting("", host, "host at which other workers reach this one; unset, it is `ACTIVESET_WEB_BIND`")
    web_port: int = setting(6066, whole(1, 65535), "port of the worker's web server")
    tls_cert: Path | None = setting(
        None,
        file("a PEM file"),
        "the web server's certificate, with those between it and its CA; unset, it speaks HTTP",
    )
    tls_key: Path | None = setting(None, file("a PEM file"), "the private key of that certificate, without a password")
    tls_ca: Path | None = setting(
        None,
        file("a PEM file"),
        "the CAs by which other workers are verified; unset, the system's, and `ACTIVESET_TLS_CERT` itself",
    )
    log_level: str = setting(
        "info", one_of("debug", "info", "warning", "error"), "`debug`, `info`, `warning` or `error`"
    )
    log_format: str = setting(
        "text", one_of("text", "json"), "`text`, or `json`: the worker's log as one JSON object in each line"
    )
    state_dir: Path = setting(Path(".state"), folder, "data and logs of the local Kafka and of what runs beside it")
    cache_dir: Path = setting(
        Path("~/.cache/activeset"), class_path_folder, "the local Kafka's jars, shared by all checkouts"
    )
    kafka_port: int = setting(0, whole(0, 65535), "port of the local Kafka; 0 picks a free one at each start")
    java: Path | None = setting(
        None, file("a program"), "the local Kafka's `java`; unset, one of 17 or newer is looked for"
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """The settings that an environment asks for; an empty variable counts as unset.

        Raises:
            BadSettings: a value is out of its range, a certificate has no key or a key no certificate, or nobody knows
                a variable that starts with `ACTIVESET_`.
        """
        known = {variable(each): each for each in fields(cls)}
        values = {}
        for name, text in environ.items():
            if not name.startswith(PREFIX) or not text.strip():
                continue
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                raise BadSettings(f"{name} is not a setting" + (f"; did you mean {close[0]}?" if close else ""))
            try:
                values[known[name].name] = known[name].metadata["read"](text.strip())
            except ValueError as why:
                raise BadSettings(f"{name} must be {why}, not {text[:100]!r}") from why
        if ("tls_cert" in values) != ("tls_key" in values):
            raise BadSettings("ACTIVESET_TLS_CERT and ACTIVESET_TLS_KEY must be set both, or neither")
        return cls(**values)

    def environ(self, around: Mapping[str, str]) -> dict[str, str]:
        """An environment for a program of ours that gets these settings and no others.

        around: what else it has; variables that start with `ACTIVESET_` are left out.
        """
        ours = {variable(each): text_of(getattr(self, each.name)) for each in fields(self)}
        return {**{name: text for name, text in around.items() if not name.startswith(PREFIX)}, **ours}

    @classmethod
    def rows(cls) -> Iterator[Row]:
        """The table of settings, in order."""
        for each in fields(cls):
            yield Row(variable(each), text_of(each.default), each.metadata["meaning"])

    @property
    def worker_dir(self) -> Path:
        """The folder of the worker's RocksDB."""
        return self.data_dir or self.state_dir / "worker"

    @property
    def url(self) -> str:
        """Where the worker's web server answers on this machine."""
        return self.url_at(self.web_bind)

    @property
    def url_for_others(self) -> str:
        """Where other workers reach the worker's web server."""
        return self.url_at(self.web_host or self.web_bind)

    def url_at(self, host: str) -> str:
        """The URL of the worker's web server at one of its hosts."""
        return f"{'https' if self.tls_cert else 'http'}://{in_url(host)}:{self.web_port}"

    def name(self, plain: str) -> str:
        """The name in Kafka of a topic or of the group, with the prefix that this installation uses."""
        return self.topic_prefix + plain


def text_of(value: object) -> str:
    """A value of a setting as its variable has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def in_url(host: str) -> str:
    """A host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def variable(each: Field[Any]) -> str:
    """The environment variable of a setting."""
    return PREFIX + each.name.upper()
