"""Somebody who knows only `/openapi.json` asks a running worker for everything, in and out of range."""

import asyncio
import os
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.broker.conftest import Start, until
from tests.broker.test_active_set import heard
from tests.broker.test_leases import uploaded
from tests.broker.test_worker import WORKER

FUZZ_S = 45
HOUSE = Path(__file__).parents[2]
HOOKED = {"SCHEMATHESIS_HOOKS": "tests.broker.hooks", "PYTHONPATH": str(HOUSE), "PYTHONWARNINGS": "ignore"}
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.timeout(180)
async def test_whatever_is_asked_is_answered_as_the_contract_says(
    kafka: str, prefix: str, start: Start, tmp_path: Path
) -> None:
    worker = await start(*WORKER, broker=kafka, topic_prefix=prefix)
    receipt = await asyncio.to_thread(uploaded, kafka, prefix)
    await until(partial(heard, worker, receipt), worker)

    told_to = ["--checks", "all", "--max-time", str(FUZZ_S), "--seed", "1", "--no-color", "--warnings", "off"]
    fuzz = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG)),
        *("run", f"{worker.url}/openapi.json", *told_to, "--generation-database", "none"),
        env={**os.environ, **HOOKED},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await fuzz.communicate()

    assert fuzz.returncode == 0, told.decode()[-10_000:]
    assert worker.process.returncode is None
