"""The same ingest with Quix Streams: chunks expanded to rows, each row a stateful step. It has its own environment.

The scores are made by our own functions, as on all sides, and the rows are those that our worker writes; each is a key
of the state of its project.
"""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from streams.record import MESSAGE_BYTES, Record
from tests.bench.parts import InTable, Parts


def main() -> None:
    """Run until killed."""
    from quixstreams import Application  # pyright: ignore[reportMissingImports]

    parser = argparse.ArgumentParser()
    for each in ("broker", "group", "topic"):
        parser.add_argument(each)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    app: Any = Application(
        broker_address=given.broker,
        consumer_group=given.group,
        auto_offset_reset="earliest",
        commit_interval=1.0,  # as Faust and we have it
        state_dir=given.folder,
        consumer_extra_config={"fetch.message.max.bytes": MESSAGE_BYTES},
        producer_extra_config={"message.max.bytes": MESSAGE_BYTES},
        loglevel="ERROR",
    )
    parts, references = Parts(), InTable({})  # a row is read where its state is
    steps = asyncio.new_event_loop()

    def expanded(value: bytes, key: bytes, _: int, headers: list[tuple[str, bytes]]) -> list[Any]:
        record = Record(given.topic, 0, key, value, list(headers))
        changed = steps.run_until_complete(parts.rows_of(record, 0, references))
        references.keep(key.decode(), changed)
        return changed

    def kept(change: tuple[bytes, bytes | None], state: Any) -> None:
        key, value = change
        if value is None:
            state.delete(key.hex())
        elif state.get_bytes(key.hex()) != value:
            state.set_bytes(key.hex(), value)

    topic = app.topic(given.topic, key_deserializer="bytes", value_deserializer="bytes")
    rows = app.dataframe(topic).apply(expanded, expand=True, metadata=True)
    rows.update(kept, stateful=True)
    app.run()


if __name__ == "__main__":
    main()
