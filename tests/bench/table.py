"""What a row costs and how much memory its worker takes, over forms of chunks: width, length, encoding, preset."""

import asyncio
from dataclasses import replace
from itertools import product

from deploy.kafka import free_ports
from streams.chunks import CHUNK_BYTES
from streams.decode import JSON, MSGPACK
from streams.settings import Settings
from tests.bench.arms import apart, ours
from tests.bench.feed import Load
from tests.bench.machine import peak_mib
from tests.bench.progress import step
from tests.bench.report import Figure, Report

PRESETS = ("balanced", "geti")
FEATURES = (64, 256, 1024)
ROWS = (16, 256, 1000)
FORMS = {MSGPACK: "MessagePack", JSON: "JSON"}
FEW = [("balanced", 64, 256, MSGPACK), ("balanced", 1024, 256, MSGPACK), ("balanced", 256, 16, MSGPACK)]
FEW += [("balanced", 256, 1000, MSGPACK), ("balanced", 256, 256, JSON), ("geti", 256, 256, MSGPACK)]
ALL_ROWS = 8000  # of a batch, about
SMALL = 2000  # of chunks of 16


async def table(settings: Settings, report: Report, *, full: bool) -> None:
    """A worker for each form, so that its memory is of that form alone."""
    for number, (preset, features, rows, form) in enumerate(product(PRESETS, FEATURES, ROWS, FORMS) if full else FEW):
        load = Load((SMALL if rows == 16 else ALL_ROWS) // rows, rows, features, preset, form)
        events = await asyncio.to_thread(load.events, "project", "batch")
        if len(events.unseen[0]) > CHUNK_BYTES:
            continue
        what = f"{preset}, {features} features, chunks of {rows:,}, {FORMS[form]}"
        step(f"table: {what}")
        own = replace(apart(settings, f"form-{number}"), web_port=free_ports(1)[0])
        async with ours(own) as worker:
            await worker.measure(events, load.total)
            took = await worker.measure(await asyncio.to_thread(load.events, "again", "batch"), load.total)
            key = f"table.{preset}.{features}.{rows}.{FORMS[form]}"
            report.add(
                Figure(f"{key}.rows", what, "rows/s", (took.speed,)),
                Figure(f"{key}.us", what, "us CPU/row", (took.cost,)),
                Figure(f"{key}.memory", what, "MiB", (peak_mib(worker.worker.pid),)),
            )
