"""A real Kafka for all tests, and real workers, each test's own."""

import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from deploy import jars
from deploy.kafka import local_kafka
from deploy.trial import remove_topics
from streams.settings import Settings
from tests.broker.programs import PATIENCE_S as PATIENCE_S
from tests.broker.programs import Program as Program
from tests.broker.programs import Start as Start
from tests.broker.programs import starting
from tests.broker.programs import until as until
from tests.conftest import NAMED_BROKER, OURS

log = logging.getLogger("tests")  # shown where a test fails


def local_settings(folder: Path) -> Settings:
    """Settings of a local Kafka with its data in a folder."""
    return Settings.from_environ({**OURS, "ACTIVESET_STATE_DIR": str(folder)})


@pytest.fixture(scope="session", autouse=True)
def jars_of_kafka() -> None:
    """Fetches the local Kafka's jars, where that has not been done, before a test's time begins."""
    jars.ensure(Settings.from_environ(OURS).cache_dir.expanduser(), jars.listed())


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kafka(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a Kafka that answers: the one that is named, else a local one for all tests together."""
    if NAMED_BROKER:
        yield NAMED_BROKER
        return
    folder = tmp_path_factory.mktemp("kafka")
    async with local_kafka(local_settings(folder)) as broker:
        yield broker.address


@pytest.fixture
async def prefix(kafka: str) -> AsyncIterator[str]:
    """A prefix for topics and groups that no other test has; what was made under it is removed."""
    prefix = f"test-{uuid.uuid4().hex[:8]}."
    yield prefix
    await remove_topics(kafka, prefix)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts programs of ours, each with folders and a port of its own, and ends them with the test."""
    async with starting(tmp_path) as start:
        yield start


@pytest.fixture
def seed() -> int:
    """What the load and the schedule are made of; told where a test fails."""
    seed = int(os.environ.get("SEED") or time.time_ns() % 1_000_000)
    log.warning("SEED=%d", seed)
    return seed
