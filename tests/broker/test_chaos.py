"""Every fault that takes seconds, in an order by chance: nothing is lost, and nothing comes twice.

Always in the same order, unless SEED=<number> asks for another: what is new is looked for by `make chaos`.
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path

import pytest

from tests.broker.programs import HOUSE

SEED = "22"
log = logging.getLogger("chaos")  # shown where a test fails


@pytest.mark.timeout(600)
async def test_nothing_is_lost_and_nothing_comes_twice_whatever_befalls_workers_and_kafka(
    tmp_path: Path,
) -> None:
    seed = os.environ.get("SEED") or SEED
    report = tmp_path / "report.json"
    command = ("-m", "tests.chaos", "--seed", seed, "--minutes", "1", "--report", str(report))

    running = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=HOUSE
    )
    said, _ = await running.communicate()

    log.warning("%s", said.decode()[-20_000:])
    assert running.returncode == 0
    told = json.loads(report.read_text())
    assert not told["found"]
    assert told["faults"]
