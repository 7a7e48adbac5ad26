"""The topics: one literal for each name, what each keeps, and how they come to be."""

import asyncio
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from streams.errors import BadSettings, KafkaUnavailable
from streams.events import EXTRACTORS
from streams.record import MESSAGE_BYTES
from streams.settings import Settings

SETTLE_S = 20.0
DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """What a topic is called and how long Kafka keeps its records."""

    name: str
    meaning: str
    kept: str
    config: tuple[tuple[str, str], ...]


def events(name: str, meaning: str, days: int | None = None) -> Topic:
    """A topic of events, kept for so many days, or for ever."""
    retention_ms = -1 if days is None else days * DAY_MS
    kept = "for ever" if days is None else f"{days} days"
    return Topic(name, meaning, kept, (("cleanup.policy", "delete"), ("retention.ms", str(retention_ms))))


SOURCES = (
    events("project_updates", "a project was created, or its tasks or settings changed"),
    events("project_deletions", "a project is gone"),
    events("media_uploads", "media exist"),
    events("media_deletions", "media are gone"),
    events("annotation_updates", "a person annotated a medium, or undid it"),
    events("model_activations", "a model became the active one of its task"),
    events("inference_artifacts", "a chunk of a batch inference", 30),
    events("active_set_events", "media were suggested, leased, released or skipped; written by the workers"),
)
REJECTED = events("rejected_events", "what could not be applied, and why", 30)
# The number stands for the layout of the rows, the rest for the extractors, of which each has a column: with others,
# tables begin empty, and all topics are applied anew.
TABLE = f"state-v5-{blake2b(' '.join(EXTRACTORS).encode(), digest_size=3).hexdigest()}"
CHANGELOG = Topic(
    f"activeset-{TABLE}-changelog",  # as Faust names it, after the application and its table
    "the rows of every table; RocksDB is rebuilt from it",
    "last row of each key",
    # A worker that comes back with an old disk after a deleted key's marker is gone would bring the key back: 30 days.
    # With the time at which Kafka takes a row, it tells its own (streams/clock.py).
    (
        ("cleanup.policy", "compact"),
        ("delete.retention.ms", str(30 * DAY_MS)),
        ("message.timestamp.type", "LogAppendTime"),
    ),
)
TOPICS = (*SOURCES, REJECTED, CHANGELOG)


async def declare(settings: Settings) -> None:
    """Create the topics that are missing, and check that all have the same number of partitions.

    Raises:
        KafkaUnavailable: no broker answers, or it refuses to create a topic.
        BadSettings: a topic has another number of partitions than the setting says, is missing and may not be made, or
            is configured so that it would lose records or refuse what workers write.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.broker, request_timeout_ms=20_000)
    try:
        await admin.start()
        await _declare(admin, settings)
    except (KafkaError, OSError) as why:
        raise KafkaUnavailable(
            f"no Kafka that serves us at {settings.broker} ({why}): is ACTIVESET_BROKER its host:port, and is it up?"
        ) from why
    finally:
        await admin.close()


async def _declare(admin: AIOKafkaAdminClient, settings: Settings) -> None:
    there = await admin.list_topics()
    missing = [topic for topic in TOPICS if settings.name(topic.name) not in there]
    if missing and not settings.create_topics:
        names = ", ".join(settings.name(topic.name) for topic in missing)
        raise BadSettings(f"ACTIVESET_CREATE_TOPICS is no, and these topics are missing: {names}")
    if missing:
        await _create(admin, settings, missing)
    for told in await described(admin, [settings.name(topic.name) for topic in TOPICS]):
        if len(told["partitions"]) != settings.partitions:
            raise BadSettings(
                f"ACTIVESET_PARTITIONS must be {len(told['partitions'])}, as topic {told['topic']} has them, "
                f"not {settings.partitions}: the number is fixed once the topics are there"
            )
    _check(await configs(admin, [settings.name(topic.name) for topic in TOPICS]), settings)


def _check(told: dict[str, dict[str, str]], settings: Settings) -> None:
    """See that topics keep what they must, and take what workers write.

    A record that one topic took and another does not would end one owner of its partition after the other.
    """
    for topic in TOPICS:
        name = settings.name(topic.name)
        policy = dict(topic.config)["cleanup.policy"]
        if int(told[name]["max.message.bytes"]) < MESSAGE_BYTES:
            raise BadSettings(
                f"topic {name} must have max.message.bytes={MESSAGE_BYTES} or more, "
                f"not {told[name]['max.message.bytes']}"
            )
        if told[name]["cleanup.policy"] != policy:
            raise BadSettings(f"topic {name} must have cleanup.policy={policy}, not {told[name]['cleanup.policy']}")


async def configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    """How topics are configured, as far as it matters here."""
    wanted = dict.fromkeys(("max.message.bytes", "cleanup.policy", "delete.retention.ms"))
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
    told: dict[str, dict[str, str]] = {}
    answers: list[Any] = await admin.describe_configs(asked)
    for answer in answers:
        for code, message, _, name, entries in answer.resources:
            if code:
                raise for_code(code)(f"topic {name}: {message}")
            told[name] = {entry[0]: entry[1] for entry in entries}
    return told


async def described(admin: AIOKafkaAdminClient, names: list[str]) -> list[dict[str, Any]]:
    """What the broker tells of topics, once it knows them all.

    A topic that was made a moment ago, maybe by another worker, may be unknown for a moment more.
    """
    give_up = asyncio.get_running_loop().time() + SETTLE_S
    while True:
        told: list[dict[str, Any]] = await admin.describe_topics(names)
        errors = [for_code(each["error_code"])(each["topic"]) for each in told if each["error_code"]]
        if not errors:
            return told
        if not all(error.retriable for error in errors) or asyncio.get_running_loop().time() > give_up:
            raise errors[0]
        await asyncio.sleep(0.1)


async def _create(admin: AIOKafkaAdminClient, settings: Settings, missing: list[Topic]) -> None:
    answer: Any = await admin.create_topics(
        [
            NewTopic(
                name=settings.name(topic.name),
                num_partitions=settings.partitions,
                replication_factor=settings.replication,
                topic_configs={**dict(topic.config), "max.message.bytes": str(MESSAGE_BYTES)},
            )
            for topic in missing
        ],
        timeout_ms=20_000,
    )
    for name, code, *told in answer.topic_errors:
        # Workers that start side by side create side by side: whoever comes second finds the topic made.
        if code not in (0, TopicAlreadyExistsError.errno):
            raise for_code(code)(f"topic {name} could not be created: {told[0] if told else ''}")
