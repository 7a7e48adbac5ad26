"""The watch over a worker: when its partitions have caught up, whether it gets on, and its end if it does not."""

import asyncio
import faulthandler
import logging
import time
from collections import defaultdict
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from agents.curate import Curator
from agents.pulse import Pulse
from streams.overrides import OurApp, now_s
from streams.settings import Settings
from streams.topics import SOURCES
from tables.partition import Partition
from tables.state import State

log = logging.getLogger("activeset.worker")

LOOK_S = 0.1  # while partitions catch up, and else
CALM_S = 1.0
ASK_S = 5.0  # between two questions to Kafka where the topics end
KEEP_S = 24 * 3600.0  # after which a writer that had nothing to write writes something
GRACE_S = 5.0  # from the moment in which `/livez` says so to the end


class Stalled(Exception):
    """The worker had something to do and did nothing."""


@dataclass
class Watch:
    """Looks at a worker again and again: at each thing that it does, for one may stand still beside others."""

    app: OurApp
    settings: Settings
    state: State
    curator: Curator

    def __post_init__(self) -> None:
        self._pulses: dict[str, Pulse] = defaultdict(lambda: Pulse(self.settings.stall_s))
        self._asked_at = float("-inf")
        self._answered = True

    @property
    def stalled(self) -> bool:
        """Whether something of the worker does not get on."""
        return any(each.stalled for each in self._pulses.values())

    async def keep(self) -> None:
        """Look until the worker is told to end.

        Raises:
            Stalled: it does not get on, and has been given some seconds more.
        """
        catching_up = True
        while True:
            # Whatever holds the event loop up for so long is told with its stack, and ended.
            faulthandler.dump_traceback_later(self.settings.stall_s + GRACE_S, exit=True)
            await self._ask()
            catching_up, before = self._look(), catching_up
            for each in self.state.partitions:
                if each.failure is not None:
                    raise each.failure
                if now_s() - each.writer.used_at > KEEP_S:
                    await each.keep()
            if before and not catching_up:
                log.info("ready, with all that was told before: partitions %s", self.app.owned())
            for what, pulse in self._pulses.items():
                if pulse.stalled_s >= self.settings.stall_s + GRACE_S:
                    raise Stalled(f"{what}: nothing was done for {pulse.stalled_s:.0f} s, and there is something to do")
            await asyncio.sleep(LOOK_S if catching_up else CALM_S)

    def _look(self) -> bool:
        """Note which partitions have caught up, and whether the worker gets on; whether it still catches up."""
        partitions = self.state.partitions
        for each in partitions:
            if not each.caught_up and all(
                self._through(each, topic) >= target for topic, target in each.targets.items()
            ):
                each.caught_up = True
        silent = self.app.unheard_s() > self.settings.session_timeout_s
        missing = {*self.app.owned()} - {each.number for each in partitions}
        # Right after Kafka came back it may have told whoever shares partitions out of no topics: then nobody has any.
        nobodys = any(self.app.owner(number) is None for number in range(self.settings.partitions))
        lost = not self.app.settled() or silent or bool(missing) or nobodys or not self._answered
        self._beat("joining the group and restoring", lost, self.state.restored)
        # Of all topics together: one loop reads them.
        behind = any(self._through(each, topic) < end for each in partitions for topic, end in each.ends.items())
        self._beat("reading", behind, sum(sum(each.progress.values()) for each in partitions))
        for topic in SOURCES:
            heard = self.curator.heard[topic.name]
            self._beat(f"applying {topic.name}", topic.name in self.curator.in_hand, heard)
        for number in range(self.settings.partitions):
            owned = [each for each in partitions if each.number == number]
            writing = any(each.writing for each in owned)
            self._beat(f"writing partition {number}", writing, sum(each.written for each in owned))
        return not self.app.settled() or not all(each.caught_up for each in partitions)

    def _beat(self, what: str, busy: bool, done: int) -> None:
        self._pulses[what].beat(time.monotonic(), busy=busy, done=done)

    def _through(self, partition: Partition, topic: str) -> int:
        return self.app.through(self.settings.name(topic), partition.number, partition.progress.get(topic, -1))

    async def _ask(self) -> None:
        """Ask Kafka where the topics end: if our reader is stuck, nobody else tells us of what we have not read."""
        if time.monotonic() - self._asked_at < ASK_S:
            return
        self._asked_at = time.monotonic()
        partitions = {each.number: each for each in self.state.partitions}
        try:
            told = await self.state.source_ends(partitions)
        except (KafkaError, OSError, TimeoutError) as why:
            if self._answered:
                log.warning("Kafka does not tell where the topics end: %r", why)
            self._answered = False
            return
        self._answered = True
        for number, ends in told.items():
            partitions[number].ends = ends
