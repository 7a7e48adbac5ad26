"""The demo, as a new user runs it."""

import re

from aiokafka.admin import AIOKafkaAdminClient

from tests.broker.conftest import Start
from tests.conftest import OURS


async def test_the_demo_learns_faster_than_by_lot_says_where_everything_is_and_leaves_nothing_running(
    kafka: str, start: Start
) -> None:
    demo = await start("deploy", "demo", **{name.removeprefix("ACTIVESET_"): OURS[name] for name in OURS})

    assert await demo.ends() == 0, demo.said()

    rows = re.findall(r"│ +(\d+) │ +([\d.]+) │ +([\d.]+) │", demo.said())
    assert [int(labels) for labels, _, _ in rows] == list(range(10, 171, 10))
    [(chosen, by_lot)] = re.findall(r"│ +mean │ +([\d.]+) │ +([\d.]+) │", demo.said())
    assert float(chosen) > float(by_lot)
    for name in ("curves.png", "worker.log"):
        path = demo.state / "demo" / name
        assert str(path) in demo.said()
        assert path.stat().st_size > 0
    assert "worker: stopping" in (demo.state / "demo" / "worker.log").read_text()
    assert "ERROR" not in (demo.state / "demo" / "worker.log").read_text()


async def test_a_demo_on_a_kafka_that_is_there_takes_its_topics_away(kafka: str, prefix: str, start: Start) -> None:
    demo = await start("deploy", "demo", broker=kafka, topic_prefix=prefix)
    await demo.says("rounds")

    assert await demo.stop() == 1  # it was stopped, and so did not work

    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    left = [topic for topic in await admin.list_topics() if topic.startswith(prefix)]
    await admin.close()
    assert left == []
