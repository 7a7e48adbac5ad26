"""The watch over a worker: when its partitions have caught up, whether it gets on, and its end if it does not."""

import asyncio
import faulthandler
import logging
from dataclasses import dataclass

from aiokafka.errors import KafkaError

from agents.pulse import Pulse
from streams.overrides import OurApp, now_s
from streams.settings import Settings
from tables.partition import Partition
from tables.state import State

log = logging.getLogger("activeset.worker")

LOOK_S = 0.1  # while partitions catch up, and else
CALM_S = 1.0
ASK_S = 5.0  # between two questions to Kafka where the topics end
GRACE_S = 5.0  # from the moment in which `/livez` says so to the end


class Stalled(Exception):
    """The worker had something to do and did nothing."""


@dataclass
class Watch:
    """Looks at a worker again and again.

    done: how much it has done so far, as a number that rises.
    """

    app: OurApp
    settings: Settings
    state: State

    def __post_init__(self) -> None:
        self.pulse = Pulse(self.settings.stall_s)
        self._asked_at = float("-inf")
        self._answered = True

    async def keep(self) -> None:
        """Look until the worker is told to end.

        Raises:
            Stalled: it does not get on, and has been given some seconds more.
        """
        catching_up = True
        try:
            while True:
                # Whatever holds the event loop up for so long is told with its stack, and ended.
                faulthandler.dump_traceback_later(self.settings.stall_s + GRACE_S, exit=True)
                await self._ask()
                catching_up, before = self._look(), catching_up
                if before and not catching_up:
                    log.info("ready, with all that was told before: partitions %s", self.app.owned())
                if self.pulse.stalled_s >= self.settings.stall_s + GRACE_S:
                    raise Stalled(f"nothing was done for {self.pulse.stalled_s:.0f} s, and there is something to do")
                await asyncio.sleep(LOOK_S if catching_up else CALM_S)
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _look(self) -> bool:
        """Note which partitions have caught up, and whether the worker gets on; whether it still catches up."""
        partitions = self.state.partitions
        for each in partitions:
            if not each.caught_up and all(
                self._through(each, topic) >= target for topic, target in each.targets.items()
            ):
                each.caught_up = True
        behind = any(self._through(each, topic) < end for each in partitions for topic, end in each.ends.items())
        lost = self.app.unheard_s() > self.settings.session_timeout_s
        missing = {*self.app.owned()} - {each.number for each in partitions}
        busy = not self.app.settled() or lost or bool(missing) or behind or not self._answered
        done = self.state.restored + sum(sum(each.progress.values()) for each in partitions)
        self.pulse.beat(now_s(), busy=busy, done=done)
        return not self.app.settled() or not all(each.caught_up for each in partitions)

    def _through(self, partition: Partition, topic: str) -> int:
        return self.app.through(self.settings.name(topic), partition.number, partition.progress.get(topic, -1))

    async def _ask(self) -> None:
        """Ask Kafka where the topics end: if our reader is stuck, nobody else tells us of what we have not read."""
        if now_s() - self._asked_at < ASK_S:
            return
        self._asked_at = now_s()
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
