"""A worker with a probe: `python -m tests.bench.probe FILE worker`.

Runs `python -m agents worker` as it is, but for two things. Each step of its event loop is timed; SIGUSR1 begins anew,
and SIGUSR2 writes what was found to FILE. And a static view, `/bench/static`, answers with the bytes of FILE.body, so
that an answer of the service can be compared with what the same server can do at best.
"""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web

from agents import __main__ as program  # first: it sets how numpy's libraries are loaded
from agents import life
from agents.worker import Worker, build
from streams.settings import Settings

LONG_S = 0.005  # of which steps it is told what they were


def what(handle: Any) -> str:
    """Which step a handle is, without a look at what it holds: to write that out would take longer than the step."""
    task = getattr(handle._callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        return str(getattr(handle._callback, "__qualname__", type(handle._callback).__name__))
    at: Any = task.get_coro()
    told = [at.__qualname__]
    while at is not None:
        frame = getattr(at, "cr_frame", None) or getattr(at, "gi_frame", None)
        if frame is not None:
            told.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        at = getattr(at, "cr_await", None) or getattr(at, "gi_yieldfrom", None)
    return " ".join([told[0], *told[1:][-3:]])


class Probe:
    """Times the steps of the event loop: how long each took, on the clock and of the CPU."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.anew()

    def anew(self) -> None:
        """Forget what was."""
        self._steps: list[float] = []
        self._long: list[tuple[float, float, str]] = []

    def wrap(self) -> None:
        """Time every step from now on."""
        whole: Any = asyncio.events.Handle._run

        def run(handle: Any) -> None:
            of_cpu, began = time.thread_time(), time.perf_counter()
            whole(handle)
            took = time.perf_counter() - began
            self._steps.append(took)
            if took > LONG_S:
                self._long.append((took, time.thread_time() - of_cpu, what(handle)))

        told: Any = asyncio.events.Handle
        told._run = run

    def write(self) -> None:
        """Write what was found: milliseconds, and what the longest steps were."""
        ms = np.array(self._steps or [0.0]) * 1000
        longest = sorted(self._long, reverse=True)
        told = {
            "steps": len(self._steps),
            "p99": float(np.quantile(ms, 0.99)),
            "p999": float(np.quantile(ms, 0.999)),
            "longest": float(ms.max()),
            "longest_cpu": max((of_cpu for _, of_cpu, _ in longest), default=0.0) * 1000,
            "over_10_ms": int((ms > 10).sum()),
            "what": [f"{of * 1000:.1f} ms ({cpu * 1000:.1f} of CPU), then at {step}" for of, cpu, step in longest[:5]],
        }
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(told))
        part.rename(self._file)


def main(arguments: list[str]) -> int:
    """Run a worker with a probe; the answer is the exit status, should it end by itself."""
    file, *command = arguments
    probe = Probe(Path(file))
    probe.wrap()

    def built(settings: Settings) -> Worker:
        worker = build(settings)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, probe.anew)
        loop.add_signal_handler(signal.SIGUSR2, probe.write)
        server: Any = worker.app.web
        server.web_app.router.add_get("/bench/static", static)
        return worker

    body = Path(file).with_suffix(".body")

    async def static(_: web.Request) -> web.Response:
        return web.Response(body=held(), content_type="application/json")

    kept: dict[int, bytes] = {}

    def held() -> bytes:
        at = body.stat().st_mtime_ns
        if at not in kept:
            kept.clear()
            kept[at] = body.read_bytes()
        return kept[at]

    told: Any = life
    told.build = built
    return program.main(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
