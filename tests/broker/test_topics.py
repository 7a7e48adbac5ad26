"""Topics that somebody else has configured: the start says what is wrong; a client says what Kafka refuses."""

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from streams import topics
from streams.errors import BadSettings, RecordRefused
from streams.producer import Artifacts, Producer
from streams.settings import Settings


async def create(kafka: str, topic: str, **config: str) -> None:
    """Make a topic with one partition."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=config)])
    await admin.close()


@pytest.mark.parametrize(
    ("topic", "name", "value"),
    [
        ("inference_artifacts", "max.message.bytes", "1048588"),
        ("rejected_events", "max.message.bytes", "1000"),
        ("media_uploads", "cleanup.policy", "compact"),
        (topics.CHANGELOG.name, "cleanup.policy", "delete"),
    ],
)
async def test_a_topic_that_would_lose_or_refuse_what_workers_write_stops_the_start(
    kafka: str, prefix: str, topic: str, name: str, value: str
) -> None:
    right = {"max.message.bytes": "4194304", **dict(next(each.config for each in topics.TOPICS if each.name == topic))}
    await create(kafka, prefix + topic, **{**right, name: value})

    with pytest.raises(BadSettings, match=rf"topic {prefix}{topic} must have {name}=.*, not {value}"):
        await topics.declare(Settings(broker=kafka, topic_prefix=prefix, partitions=1))


async def test_a_chunk_that_kafka_refuses_fails_at_the_client_with_an_error_of_its_own(kafka: str, prefix: str) -> None:
    await create(kafka, f"{prefix}inference_artifacts", **{"max.message.bytes": "10000"})

    with Producer(kafka, workspace_id="w1", project_id="p1", prefix=prefix) as producer:
        images = [f"m{n}" for n in range(1000)]
        producer.infer("t1", "m1", unseen=Artifacts(media=images[:9], probabilities=[[0.5, 0.5]] * 9))
        with pytest.raises(RecordRefused, match="refuses what was sent, and would again"):
            producer.infer("t1", "m1", unseen=Artifacts(media=images, probabilities=[[0.5, 0.5]] * 1000))
        for _ in range(2):  # and it goes on
            assert producer.infer("t1", "m1", unseen=Artifacts(media=images[:9], probabilities=[[0.5, 0.5]] * 9))
