"""What we measure against: the same artifacts, decoded and scored alike, written as plain Faust does, row by row."""

import sys

import faust
import numpy as np

from agents.score import score
from streams.artifacts import columns
from streams.events import ArtifactsInferred, decode
from streams.record import MESSAGE_BYTES, Record
from tables.rows import Kind, hashed, medium_bytes, prefix_of

BROKER, TOPIC, FOLDER = sys.argv[1:4]

app = faust.App(
    "bench-plain",
    broker=f"kafka://{BROKER}",
    store="rocksdb://",
    datadir=FOLDER,
    topic_partitions=1,
    key_serializer="raw",
    value_serializer="raw",
    consumer_max_fetch_size=MESSAGE_BYTES,
    stream_buffer_maxsize=64,
    web_enabled=False,
)
table = app.Table("rows", partitions=1, key_type=bytes, value_type=bytes, options={"write_buffer_size": 16 << 20})


@app.agent(app.topic(TOPIC, key_serializer="raw", value_serializer="raw"), name="bench")
async def agent(stream):  # type: ignore[no-untyped-def]
    """Score a chunk and write a row for each medium."""
    async for event in stream.events():
        message = event.message
        record = Record(TOPIC, 0, message.key, message.value, list(message.headers))
        told = decode(record, "inference_artifacts")
        assert isinstance(told, ArtifactsInferred)
        scored = score(columns(told), None, multi_label=False)
        prefix = prefix_of(told.project_id, Kind.SCORE) + hashed(told.task_id)
        utilities = np.stack([*scored.utilities.values()], axis=1).astype("<f4")
        for medium, row in zip(scored.labels, utilities, strict=True):
            table[prefix + medium_bytes(medium)] = bytes(80) + row.tobytes()


if __name__ == "__main__":
    sys.argv = ["bench", "worker", "-l", "error", "--without-web"]
    app.main()
