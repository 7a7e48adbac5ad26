"""The demo, as a new user runs it."""

import re
from pathlib import Path

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
    assert re.findall(r"random: (\d+) labels", demo.said()) == [labels for labels, _, _ in rows]
    for name in ("curves.png", "worker.log"):
        path = demo.state / "demo" / name
        assert str(path) in demo.said()
        assert path.stat().st_size > 0
    assert "worker: stopping" in (demo.state / "demo" / "worker.log").read_text()
    assert "ERROR" not in (demo.state / "demo" / "worker.log").read_text()


async def test_a_demo_that_is_stopped_leaves_nothing_on_a_kafka_that_was_there(
    kafka: str, prefix: str, start: Start
) -> None:
    demo = await start("deploy", "demo", broker=kafka, topic_prefix=prefix)
    await demo.says("10 labels, accuracy")

    assert await demo.stop() == 1  # so it did not work

    assert "20 labels, accuracy 0.9" not in demo.said()
    assert "mean" not in demo.said()
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    left = [topic for topic in await admin.list_topics() if topic.startswith(prefix)]
    await admin.close()
    assert left == []


async def test_two_demos_do_not_share_a_folder(start: Start) -> None:
    first = await start("deploy", "demo")
    await first.says("Apache Kafka .* answers")

    second = await start("deploy", "demo", state_dir=first.state)

    assert await second.ends() == 2
    assert "activeset: ACTIVESET_STATE_DIR must be another folder: a demo is running in" in second.said()


async def test_a_demo_that_cannot_begin_says_why_in_a_sentence(start: Start) -> None:
    demo = await start("deploy", "demo", broker="127.0.0.1:1")

    assert await demo.ends() == 1
    assert "did not become ready; its log is" in demo.said()
    assert "Traceback" not in demo.said()


async def test_a_demo_empties_no_folder_that_it_has_not_made(start: Start, tmp_path: Path) -> None:
    thesis = tmp_path / "demo" / "thesis"
    thesis.parent.mkdir()
    thesis.write_text("years of work")

    demo = await start("deploy", "demo", state_dir=tmp_path)

    assert await demo.ends() == 2
    assert "is not a demo's to empty" in demo.said()
    assert thesis.read_text() == "years of work"
