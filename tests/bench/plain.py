"""What we measure against: the same artifacts, decoded and scored alike, written as plain Faust does, row by row."""

import sys

import faust
import numpy as np

from agents.score import score
from streams.artifacts import columns
from streams.decode import decode
from streams.events import ArtifactsInferred
from streams.record import MESSAGE_BYTES, Record
from tables.rows import Kind, hashed, prefix_of


def plain(broker: str, name: str, topic: str, folder: str) -> faust.App:
    """An application whose agent scores chunks and sets a key of its table for each medium."""
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
        web_enabled=False,
    )
    options = {"write_buffer_size": 16 << 20}
    table = app.Table("rows", partitions=1, key_type=bytes, value_type=bytes, options=options)

    @app.agent(app.topic(topic, key_serializer="raw", value_serializer="raw"), name="bench")
    async def agent(stream):  # type: ignore[no-untyped-def]
        async for event in stream.events():
            message = event.message
            record = Record(topic, 0, message.key, message.value, list(message.headers))
            told = decode(record, "inference_artifacts")
            assert isinstance(told, ArtifactsInferred)
            scored = score(columns(told), None, multi_label=False)
            prefix = prefix_of(told.project_id, Kind.SCORE) + hashed(told.task_id)
            utilities = np.stack([*scored.utilities.values()], axis=1).astype("<f4")
            for medium, row in zip(scored.media, utilities, strict=True):
                table[prefix + medium] = bytes(80) + row.tobytes()

    return app


if __name__ == "__main__":
    app = plain(*sys.argv[1:5])
    sys.argv = ["bench", "worker", "-l", "error", "--without-web"]
    app.main()
