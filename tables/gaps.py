"""Gaps: records of a topic that did not come. Each is asked for once more; what Kafka does not have is passed over.

A record may be missing because it got lost on the way to us, and then it is still in Kafka, or because Kafka has no
record with that offset: it was deleted, or was a marker of somebody's transaction.
"""

from enum import Enum, auto

# Records that were on their way when a gap was asked for; many more, and what was asked for did not come either.
PATIENCE = 10_000


class Verdict(Enum):
    """What is to be done with a record."""

    APPLY = auto()
    APPLY_AFTER_GAP = auto()  # what is missing before it is not there
    SKIP = auto()  # it was applied already
    READ_AGAIN = auto()  # from the first one that is missing on; this one comes again
    WAIT = auto()  # it comes again, after what is missing


class Gaps:
    """The gaps of a partition's topics.

    A gap is what is between the last record of a topic that was taken and one that has come. The first time, Kafka is
    read again from there; what was on its way already is left alone, since it will come once more. If then the same
    record is the next one, nothing is between.
    """

    def __init__(self) -> None:
        """No gap yet."""
        self._asked: dict[str, tuple[int, int, int]] = {}

    def judge(self, topic: str, last: int, offset: int) -> Verdict:
        """What to do with a record.

        last: the offset of the last record of the topic that was taken, -1 if none was.

        >>> gaps = Gaps()
        >>> [gaps.judge("t", 4, offset).name for offset in (4, 5, 7, 8, 7)]
        ['SKIP', 'APPLY', 'READ_AGAIN', 'WAIT', 'APPLY_AFTER_GAP']
        """
        if offset <= last:
            return Verdict.SKIP
        if offset == last + 1:
            self._asked.pop(topic, None)
            return Verdict.APPLY
        before, came, waited = self._asked.get(topic, (-1, -1, PATIENCE))
        if before == last and offset <= came:
            del self._asked[topic]
            return Verdict.APPLY_AFTER_GAP
        if before == last and waited < PATIENCE:
            self._asked[topic] = (before, came, waited + 1)
            return Verdict.WAIT
        self._asked[topic] = (last, offset, 0)
        return Verdict.READ_AGAIN
