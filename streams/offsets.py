"""Where topics begin and end, asked of Kafka over a connection of its own: it tells also when others are stuck."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer import AIOKafkaConsumer

ASK_S = 10.0

Place = tuple[str, int]  # a topic's name in Kafka, and a partition
AskEnds = Callable[[Sequence[Place]], Awaitable[dict[Place, int]]]


class Offsets:
    """A connection to ask by; made when it is needed, and anew after an error."""

    def __init__(self, broker: str, *, committed: bool = False) -> None:
        """Connects to nothing yet.

        committed: ends are before the first transaction that is not over.
        """
        self._broker = broker
        self._isolation = "read_committed" if committed else "read_uncommitted"
        self._consumer: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()

    async def ends(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offset of the record that comes next in each place.

        Raises:
            KafkaError, OSError, TimeoutError: no answer.
        """
        return await self._ask(AIOKafkaConsumer.end_offsets, places)

    async def begins(self, places: Sequence[Place]) -> dict[Place, int]:
        """The offset of the first record that each place may have.

        Raises:
            KafkaError, OSError, TimeoutError: no answer.
        """
        return await self._ask(AIOKafkaConsumer.beginning_offsets, places)

    async def _ask(self, what: Callable[..., Awaitable[Any]], places: Sequence[Place]) -> dict[Place, int]:
        if not places:  # Kafka's client waits for ever for the ends of no partitions
            return {}
        async with self._lock:
            try:
                async with asyncio.timeout(ASK_S):
                    told = await what(await self._connected(), [TopicPartition(*place) for place in places])
            except BaseException:
                await self._close()
                raise
        return {(each.topic, each.partition): offset for each, offset in told.items()}

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            await self._close()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._broker, isolation_level=self._isolation
            )
            await consumer.start()
        return self._consumer

    async def _close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()
