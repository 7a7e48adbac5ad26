"""Cures taken out, each by itself: what prevents some harm in the product is not there. A checker must notice.

Each function takes one out of this process, before a worker is run in it.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from faust.transport.drivers.aiokafka import Consumer

from agents import curate
from streams.overrides import OurApp, OurConsumer
from tables import batch
from tables.gaps import Gaps, Verdict
from tables.partition import Entry, Partition
from tables.pending import Pending
from tables.rows import Change, pack_int, progress_key
from tables.state import State


def put(owner: Any, name: str, instead: Any) -> Any:
    """Put something in the place of a part of the product; what was there."""
    there = getattr(owner, name)
    setattr(owner, name, instead)
    return there


def guard() -> None:
    """what was applied before is applied again when it comes again, and it does: as far as the group has committed"""

    async def never(*_: Any, **__: Any) -> bool:
        return True

    put(OurConsumer, "perform_seek", Consumer.perform_seek)
    put(OurConsumer, "_commit", never)  # as if it were killed just before
    put(Gaps, "judge", lambda *_: Verdict.APPLY)
    put(Partition, "folded", lambda *_: -1)


def fencing() -> None:
    """nobody who had a partition before is shut out by who has it now"""

    def alone(self: batch.Writer) -> Any:
        made = new(self)
        made._txn_manager.transactional_id += f"-{os.getpid()}"
        return made

    new = put(batch.Writer, "_new", alone)


def order() -> None:
    """rows are in RocksDB before the changelog has them"""

    async def rocksdb_first(self: Partition, group: list[Entry], rows: list[Change]) -> bool:
        marks = {name: offset for each in group for name, offset in each.marks.items()}
        progress = [(progress_key(name), pack_int(offset)) for name, offset in marks.items()]
        self.store.write([*rows, *progress], self.store.offset)
        written: bool = await changelog_first(self, group, rows)
        return written

    changelog_first = put(Partition, "_written", rocksdb_first)


def pending() -> None:
    """an event is folded on rows as they are written, and not as those before it will leave them"""
    put(Pending, "get", lambda self, keys: self._store.get(keys))
    put(Pending, "scan", lambda self, prefix, after=b"": self._store.scan(prefix, after))


def gate() -> None:
    """a worker answers though Kafka has not heard of it for long"""
    put(OurApp, "unheard_s", lambda _: 0.0)


def committed() -> None:
    """rows of transactions that were not committed are restored, too"""
    reader: Any = put(
        batch, "AIOKafkaConsumer", lambda **named: reader(**{**named, "isolation_level": "read_uncommitted"})
    )


def aside() -> None:
    """rows that are ahead of the changelog, or of another one, are taken for true"""
    put(State, "_check", lambda *_: None)


def caught_up() -> None:
    """a worker answers before it knows all that was told before it came"""
    Partition.caught_up = property(lambda _: True, lambda *_: None)  # type: ignore[assignment] # for ever so


def once() -> None:
    """what was moved twice counts twice"""
    put(curate, "origin_of", lambda *_: None)


def told() -> None:
    """who looks on is not told what was written"""
    put(Partition, "_tell", lambda *_: None)


CURES: Mapping[str, Callable[[], None]] = {
    each.__name__.replace("_", "-"): each
    for each in (guard, fencing, order, pending, gate, committed, aside, caught_up, once, told)
}
