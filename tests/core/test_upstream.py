"""What is overridden stands on how Faust and aiokafka are inside: whoever changes their versions must look again.

A hash that differs is no fault of theirs. Read what has changed, see that `streams/overrides.py` still does what it
says, run the broker tests, and write the new hash down.
"""

import inspect
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.consumer.consumer import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from faust.app.base import App
from faust.assignor.partition_assignor import PartitionAssignor
from faust.stores.rocksdb import RocksDBOptions, Store
from faust.tables.base import Collection
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport import conductor
from faust.transport.consumer import Consumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types.tuples import TP, Message
from faust.web.drivers.aiohttp import Web
from mode.utils.queues import FlowControlEvent, FlowControlQueue

from streams.overrides import OurConsumer, OurQueue

VERSIONS = {"faust-streaming": "0.15.3", "aiokafka": "0.14.0", "mode-streaming": "0.7.1"}
# What we override, and what our overrides believe of what is around them.
SOURCES: dict[Callable[..., Any], str] = {
    App._new_transport: "42db531312dd776f",
    App._new_web: "9558ffdcacfa13bd",
    App.FlowControlQueue: "9451c49351ae3667",
    FlowControlQueue.put_nowait_enhanced: "f1839f43dda3d2cf",
    FlowControlQueue.force_put_nowait: "e029f3d278247909",
    FlowControlQueue.clear: "fa9a86f6b097c90f",
    App._on_partitions_revoked: "d5c895bbe57dc73a",
    App._on_partitions_assigned: "de932b7927db85b3",
    App.on_rebalance_start: "5c1e23de30674082",
    App.on_rebalance_end: "b7ff69e1e3772f30",
    App.on_stop: "bfe5a933defb2324",
    App._stop_consumer: "55854a5de12c3f52",
    Consumer.on_buffer_full: "c8961679e0bcdce5",
    Consumer.getmany: "4b168d84882a70d6",
    Consumer._wait_next_records: "6218e1969a636b3f",
    Consumer._drain_messages: "44a2500309e83c63",
    Consumer.perform_seek: "0e8c130ff4b0afd8",
    Consumer.ack: "5fcf41cf45153475",
    AIOKafkaConsumerThread.on_start: "38b4e8bd1e10723a",
    AIOKafkaConsumerThread._create_worker_consumer: "c2701bfc3e6f6cad",
    AIOKafkaConsumerThread._fetch_records: "39a2c6c79fc1455a",
    AIOKafkaConsumerThread._seek_wait: "9d221e816d940467",
    Message.ack: "4751b72c4ed84153",
    TableManager.recovery.fget: "f0bf5de78b4c3d23",  # type: ignore[attr-defined] # a property
    Recovery.on_rebalance: "aa4d997a1795ceae",
    Recovery.need_recovery: "fd1dc345b5d5e121",
    Recovery.on_recovery_completed: "6ef567acf072e46d",
    Recovery._restart_recovery.fun: "6bd8a8558a2dffe4",
    Collection._new_store_by_url: "343a8125107d3f69",
    Store._open_for_partition: "1dc4e0113d67379d",
    Store._try_open_db_for_partition: "b2546e78f9298bdc",
    Store.revoke_partitions: "3f85447a24fc34ff",
    Store.partition_path: "0cc4eae7dc33fcf1",
    RocksDBOptions.open: "ff87e92d69e2f487",
    PartitionAssignor.on_assignment: "72f34bf053d696b5",
    PartitionAssignor.assigned_actives: "cd131e5935099dda",
    Web.__init__: "52b00c1bd653c82d",
    Web.start_server: "b0c4f10491828520",
    AIOKafkaConsumer.start: "2f1ba70443327538",
    GroupCoordinator._send_req: "fa4b12e914ce9fcf",
    GroupCoordinator._do_heartbeat: "dc1d6632aaa68e96",
    GroupCoordinator._heartbeat_routine: "61d01028952239d0",
    GroupCoordinator.ensure_active_group: "33c84c1a93012e81",
    CoordinatorGroupRebalance._send_sync_group_request: "7429ca078ddf9bb7",
}


@pytest.mark.parametrize("package", VERSIONS)
def test_the_versions_are_those_that_were_read(package: str) -> None:
    assert version(package) == VERSIONS[package]


@pytest.mark.parametrize("source", SOURCES, ids=lambda each: each.__qualname__)
def test_what_is_overridden_is_what_was_read(source: Callable[..., Any]) -> None:
    assert sha256(inspect.getsource(source).encode()).hexdigest()[:16] == SOURCES[source]


def test_the_conductor_is_what_was_read() -> None:
    """It is compiled; its source lies beside it."""
    told: Any = conductor
    source = Path(conductor.__file__).with_name("_cython") / "conductor.pyx"

    assert told.ConductorHandler is not None
    assert sha256(source.read_bytes()).hexdigest()[:16] == "dde1f974267881cf"


async def test_nothing_is_fetched_for_an_agent_that_has_enough_and_who_hands_records_on_never_waits_for_it() -> None:
    queue = OurQueue(maxsize=2, flow_control=FlowControlEvent(initially_suspended=False))
    channels = {"slow": [SimpleNamespace(queue=queue)], "nobody's": []}
    consumer: Any = SimpleNamespace(app=SimpleNamespace(topics=SimpleNamespace(_topic_name_index=channels)))

    def has_enough(topic: str) -> bool:
        return OurConsumer._has_enough(consumer, TP(topic, 0))

    for n in range(5):
        assert not queue.full()
        assert has_enough("slow") == (n >= 2)
        queue.put_nowait_enhanced(n, on_pressure_high=list, on_pressure_drop=list)
    assert [await queue.get() for _ in range(4)] == [*range(4)]
    assert not has_enough("slow")
    assert not has_enough("nobody's")
