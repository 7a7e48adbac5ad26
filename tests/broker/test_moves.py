"""Records in wrong partitions, under load, while workers come and go."""

import json
from collections import defaultdict

from confluent_kafka import Producer

from streams.moves import MOVED_FROM
from streams.partition import partition_of
from tests.broker.conftest import Start, until
from tests.broker.test_worker import WORKER, records

TOPIC = "annotation_updates"
PROJECT, HOME = "p1", partition_of(b"p1", 8)
WRONG = [partition for partition in range(8) if partition != HOME][:3]
MEDIA = 600  # each annotated this many times: the last one counts
COUNT = 3000


async def test_misrouted_records_are_moved_in_the_order_of_each_wrong_partition_and_count_once(
    kafka: str, prefix: str, start: Start
) -> None:
    first = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    await until(first.partitions, first)
    producer = Producer({"bootstrap.servers": kafka, "linger.ms": 5})
    about = {"workspace_id": "w1", "project_id": PROJECT, "timestamp": 1}
    sent: dict[int, list[str]] = defaultdict(list)
    workers = [first]
    for n in range(COUNT):
        partition = WRONG[n % len(WRONG)]
        sent[partition].append(str(n))
        event = {**about, "media_id": f"m{n % MEDIA}", "states": {"t1": "annotated"}, "user_id": f"u{n}"}
        headers: list[tuple[str, str | bytes | None]] = [("n", str(n)), ("trace", "é".encode()), ("trace", None)]
        producer.produce(f"{prefix}{TOPIC}", json.dumps(event), PROJECT, partition=partition, headers=headers)
        if n in (COUNT // 3, 2 * COUNT // 3):  # joins, while records are moved
            producer.flush(20)
            workers.append(await start(*WORKER, broker=kafka, topic_prefix=prefix))
    assert producer.flush(20) == 0
    assert await first.stop() == 0

    async def all_moved() -> bool:
        there = [each for each in await records(kafka, f"{prefix}{TOPIC}") if each.partition == HOME]
        return len({dict(each.headers)["n"] for each in there}) == COUNT

    await until(all_moved, *workers[1:])

    moved: dict[int, list[str]] = defaultdict(list)
    latest: dict[int, int] = {}
    for each in await records(kafka, f"{prefix}{TOPIC}"):
        told = dict(each.headers)
        if MOVED_FROM not in told:
            assert each.partition in WRONG  # as it was sent
            continue
        assert each.partition == HOME  # and never sent on from there
        assert [name for name, _ in each.headers] == ["n", "trace", "trace", MOVED_FROM]
        assert [text for name, text in each.headers if name == "trace"] == ["é".encode(), None]
        origin, offset = map(int, told[MOVED_FROM].split(b":")[:2])
        if offset > latest.get(origin, -1):  # else it is there a second time, and counts no more
            latest[origin] = offset
            moved[origin].append(told["n"].decode())
    assert moved == sent

    for worker in workers[1:]:
        assert await worker.stop() == 0
    assert not any("rejected" in worker.said() for worker in workers)
