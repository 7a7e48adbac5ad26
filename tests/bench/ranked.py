"""What a ranking costs, in a process without Kafka: built from RocksDB, made anew, and the memory that it takes.

`tests/bench/ranking.py` measures; here its figures are told.
"""

import asyncio
import importlib
from pathlib import Path
from typing import Any

from streams.settings import Settings
from tests.bench.progress import step
from tests.bench.report import Figure, Report

SIZES = (100_000, 1_000_000)


async def ranked(settings: Settings, report: Report, *, full: bool) -> None:
    """Measure in a thread, so that a signal is heard."""
    for figure in await asyncio.to_thread(figures, settings.state_dir / "rows", SIZES[full]):
        report.add(figure)


def figures(folder: Path, media: int) -> list[Figure]:
    """All of a ranking of so many media."""
    ranking: Any = importlib.import_module("tests.bench.ranking")
    step(f"ranking: {media:,} media")
    ranking.written(folder, media)
    built = [ranking.building(folder, media, 1) for _ in range(3)]
    anew = [ranking.reranking(folder, media, 1) for _ in range(3)]
    memory = ranking.memory(folder, media)
    of_million = 1e6 / media
    return [
        Figure(
            "ranking.build",
            f"{media:,} media built from RocksDB / a bare scan, CPU",
            "x",
            tuple(each["ratio"] for each in built),
        ),
        Figure("ranking.bytes", "memory for each medium and task", "bytes", (memory["bytes_per_medium"],)),
        Figure(
            "ranking.cpu",
            "made anew after a change, for a million",
            "s of CPU",
            tuple(each["cpu_s"] * of_million for each in anew),
        ),
        Figure(
            "ranking.stall", "the event loop stands still meanwhile", "ms", tuple(each["stall_max_ms"] for each in anew)
        ),
    ]
