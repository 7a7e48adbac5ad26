"""Every fault that takes seconds, in an order by chance: nothing is lost, and nothing comes twice."""

import asyncio
import json
import logging
import sys
from pathlib import Path

import pytest

from tests.broker.programs import HOUSE

log = logging.getLogger("chaos")  # shown where a test fails


@pytest.mark.timeout(600)
async def test_nothing_is_lost_and_nothing_comes_twice_whatever_befalls_workers_and_kafka(
    tmp_path: Path, seed: int
) -> None:
    report = tmp_path / "report.json"
    command = ("-m", "tests.chaos", "--seed", str(seed), "--minutes", "1.5", "--report", str(report))

    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=HOUSE
    )
    said, _ = await running.communicate()

    log.warning("%s", said.decode()[-20_000:])
    assert running.returncode == 0
    told = json.loads(report.read_text())
    assert not told["found"]
    assert told["faults"]
