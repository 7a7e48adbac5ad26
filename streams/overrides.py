"""Where Faust 0.15.3 is overridden, all of it: who restores a worker's partitions, and where it begins to read.

Faust's recovery applies a changelog record by record, and would never reach the end of one that is written in
transactions; its positions are the group's commits, which it may lose or let run ahead of the tables (DESIGN.md, 11).
"""

from collections.abc import Iterable
from typing import Any, Protocol

import faust
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types import TP
from faust.types.transports import TransportT

from streams.errors import NotReady


class Keeper(Protocol):
    """Who keeps the tables: takes partitions over, and knows how far each topic has been applied."""

    async def take(self, partitions: Iterable[int], generation: int) -> None:
        """Take over all partitions that a worker owns from now on, and restore them."""
        ...

    def position(self, topic: str, partition: int) -> int:
        """The offset of the next record to apply."""
        ...


class OurApp(faust.App):
    """An application whose tables somebody keeps."""

    keeper: Keeper

    def _new_transport(self) -> TransportT:
        return OurTransport(self.conf.broker_consumer, self)

    def is_changelog(self, tp: TP) -> bool:
        """Whether this is a partition of a table's changelog."""
        return tp.topic in self.tables.changelog_topics


class OurConsumer(Consumer):
    """A consumer that goes on where the tables say, whatever the group has committed."""

    async def perform_seek(self) -> None:
        """Seek every partition to the first record that has not been applied."""
        app: Any = self.app
        try:
            positions = {
                tp: app.keeper.position(tp.topic, tp.partition) for tp in self.assignment() if not app.is_changelog(tp)
            }
        except NotReady:  # asked while the partitions move; it is asked again when they are here
            return
        await self.seek_wait(positions)  # a position before the first record is set to that one
        self._committed_offset.update({tp: offset or None for tp, offset in positions.items()})


class OurTransport(Transport):
    """Kafka, read by our consumer."""

    Consumer = OurConsumer


class OurRecovery(Recovery):
    """A recovery that leaves the tables to their keeper."""

    def need_recovery(self) -> bool:
        """Never: Faust itself restores nothing."""
        return False

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Have the partitions restored, then let records flow.

        Here and not when they are assigned, for Kafka hears no heartbeat then. Another rebalance cancels it.
        """
        app: Any = self.app
        # Nothing is delivered until every position is set: upstream resumes the partitions before it seeks.
        app.consumer.stop_flow()
        app.flow_control.suspend()
        owned = {tp.partition for tp in app.assignor.assigned_actives() if app.is_changelog(tp)}
        await app.keeper.take(sorted(owned), generation_id)
        await super().on_recovery_completed(generation_id)


class OurTables(TableManager):
    """A table manager with our recovery."""

    @property
    def recovery(self) -> Recovery:
        """The one recovery of this manager."""
        if self._recovery is None:
            self._recovery = OurRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
