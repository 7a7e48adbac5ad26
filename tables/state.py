"""The one table of the program: changelog-backed, on RocksDB, a database for every partition that a worker owns."""

from typing import Any

import faust
from faust.types.tables import TableT

from streams.settings import Settings

MIB = 1024 * 1024


def declare(app: faust.App, settings: Settings) -> TableT[Any, Any]:
    """The table `state`; its changelog is one of the topics of streams/topics.py.

    Keys and values are bytes. All kinds of rows share it, told apart by a prefix: one changelog then keeps the rows of
    an event together and in order, and RocksDB's costs, which are per table and partition, are paid once.
    """
    return app.Table(
        "state",
        partitions=settings.partitions,
        key_type=bytes,
        value_type=bytes,
        # Faust's defaults (a 2 GiB cache and 3 x 64 MiB of write buffers for each partition) do not suit a laptop.
        options={"block_cache_size": 64 * MIB, "write_buffer_size": 16 * MIB, "max_write_buffer_number": 2},
    )
