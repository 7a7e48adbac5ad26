"""What we measure against: the same chunks, decoded and scored alike, written as Faust tells to, a key at a time.

It reads and writes the rows that our worker reads and writes, in RocksDB by the same library, with Faust's defaults
(our settings, tried, cost it some percent more), and does less: it keeps the seen features in memory beside its table,
marks no progress, uses no transaction, and answers nobody.
"""

import sys

import faust

from streams.record import MESSAGE_BYTES, Record
from tests.bench.parts import InTable, Parts

MIB = 1024 * 1024


def plain(broker: str, name: str, topic: str, folder: str) -> faust.App:
    """An application whose agent scores chunks and sets a key of its table for each row."""
    app = faust.App(
        name,
        broker=f"kafka://{broker}",
        store="rocksdb://",
        datadir=folder,
        topic_partitions=1,
        key_serializer="raw",
        value_serializer="raw",
        consumer_max_fetch_size=MESSAGE_BYTES,
        stream_buffer_maxsize=64,
        producer_max_request_size=MESSAGE_BYTES,
        web_enabled=False,
    )
    options = {
        "write_buffer_size": 16 * MIB,
    }
    table = app.Table("rows", partitions=1, key_type=bytes, value_type=bytes, options=options)
    parts, rows = Parts(), InTable(table)

    @app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"), name="bench")
    async def agent(stream):  # type: ignore[no-untyped-def]
        async for event in stream.events():
            message = event.message
            record = Record(topic, 0, message.key, message.value, list(message.headers))
            changed = await parts.rows_of(record, message.offset, rows)
            rows.keep(message.key.decode(), changed)
            for key, value in changed:
                if value is None:
                    del table[key]
                else:
                    table[key] = value

    return app


if __name__ == "__main__":
    app = plain(*sys.argv[1:5])
    sys.argv = ["bench", "worker", "-l", "error", "--without-web"]
    app.main()
