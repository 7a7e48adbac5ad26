"""A changelog that begins later than it did: Kafka was told to delete its first records, and with them the last values
of rows that have not changed since.

Kafka refuses that while a topic is compacted, and compaction by itself never does so; but what was done can be made
good. Whoever has all rows tells them all again. Whoever has not takes back what is left, and has the topics applied
anew from their beginning. A row tells from then on that the changelog is whole.
"""

import logging
from itertools import islice

from tables.batch import Writer
from tables.rows import MENDING, WHOLE, Change, pack_int, progress_key, unpack_int
from tables.store import Store

log = logging.getLogger("activeset.state")

SLICE = 1000  # rows in a transaction


def lacks(store: Store, begins: int) -> bool:
    """Whether a changelog that begins so far on cannot tell all that a store, as far as it is, lacks."""
    return store.offset + 1 < begins


async def mend(partition: int, store: Store, writer: Writer, begins: int) -> None:
    """Make a changelog whole again, unless it is, whose rows are all in the store.

    begins: the offset of the first record that it may have.
    """
    told = store.get([progress_key(WHOLE)])[0]
    if begins <= (0 if told is None else unpack_int(told)):
        if store.partial:
            store.partial = False
        return
    log.warning(
        "partition %d: its changelog begins at %d, and may have lost rows; %s",
        partition,
        begins,
        "all topics are applied anew" if store.partial else "all are told again",
    )
    await writer.append([(progress_key(MENDING), pack_int(begins))])
    gone: list[Change] = []
    after = b""
    while rows := list(islice(store.rows(after), SLICE)):
        after = rows[-1][0] + b"\0"
        changes: list[Change] = [(key, None) for key, _ in rows] if store.partial else [*rows]
        gone += changes if store.partial else []
        await writer.append(changes)
    whole: Change = (progress_key(WHOLE), pack_int(begins))
    offset = await writer.append([(progress_key(MENDING), None), whole])
    store.write([*gone, (progress_key(MENDING), None), whole], offset, writer.written_ms)
    store.partial = False
