"""By hand: `python -m tests.bench postgres`, the best 100 media of many by a partial index of Postgres.

It wants Postgres' programs (Debian: `apt-get install postgresql`). The clock is Postgres' own (`EXPLAIN ANALYZE`), so
what a client and a connection cost is left out, and so is all that our answer has besides ids.
"""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from deploy import process
from deploy.trial import TrialFailed
from streams.settings import Settings
from tests.bench.progress import step
from tests.bench.report import Figure, Report

SIZES = (100_000, 1_000_000)
REPEAT = 20
FILL = """
CREATE TABLE media (id text PRIMARY KEY, score float8 NOT NULL, annotated boolean NOT NULL);
INSERT INTO media SELECT 'image-' || n, random(), false FROM generate_series(1, {size}) n;
CREATE INDEX best ON media (score) WHERE NOT annotated;
VACUUM ANALYZE media;
"""
ASK = "EXPLAIN ANALYZE SELECT id, score FROM media WHERE NOT annotated ORDER BY score LIMIT 100;\n"


def program(name: str) -> Path:
    """A program of Postgres, of the newest version that is here."""
    found: list[Path] = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    path = found[-1] if found else shutil.which(name)
    if path is None:
        raise TrialFailed(f"Postgres' {name} is not here: install postgresql")
    return Path(path)


@asynccontextmanager
async def a_postgres(folder: Path) -> AsyncIterator[Path]:
    """A Postgres that listens on a socket in a folder. It refuses to be run by root, and is run by `nobody` then."""
    folder.mkdir()
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "nobody", "nogroup")
    data = folder / "data"
    await done([*user, program("initdb"), "-D", data, "-A", "trust", "-U", "bench", "--no-sync"])
    command: list[str | Path] = [
        *user,
        program("postgres"),
        "-D",
        data,
        "-k",
        folder,
        "-c",
        "listen_addresses=",
        "-c",
        "jit=off",
    ]
    with (folder / "log").open("wb") as log:
        server = await process.start(command, output=log, folder=folder)
    async with process.running(server, 10):
        while not (folder / ".s.PGSQL.5432").exists():
            if server.returncode is not None:
                raise TrialFailed(f"Postgres ended; its log is {folder / 'log'}")
            await asyncio.sleep(0.1)
        yield folder


async def done(command: list[str | Path], said: bytes = b"") -> str:
    """What a program answers, which must end well."""
    running = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd="/",
    )
    answer, _ = await running.communicate(said)
    if running.returncode:
        raise TrialFailed(f"{command[-1]}: {answer.decode()[-500:]}")
    return answer.decode()


async def postgres(settings: Settings, report: Report, *, full: bool) -> None:
    """Fill a table, and ask."""
    size = SIZES[full]
    # A socket's path must be short, and `nobody` must be able to enter its folder.
    folder = Path("/tmp") / f"activeset-postgres-{os.getpid()}"
    try:
        async with a_postgres(folder):
            psql: list[str | Path] = [
                program("psql"),
                "-h",
                folder,
                "-U",
                "bench",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "postgres",
            ]
            step(f"postgres: {size:,} rows come")
            await done(psql, FILL.format(size=size).encode())
            told = await done(psql, (ASK * (REPEAT + 1)).encode())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    took = [float(each) for each in re.findall(r"Execution Time: ([0-9.]+) ms", told)][1:]
    if "Index Scan" not in told or len(took) != REPEAT:
        raise TrialFailed(f"Postgres has not used its index:\n{told[:1000]}")
    report.add(Figure(f"postgres.{size}", f"Postgres: the best 100 of {size:,} by its index", "ms", tuple(took)))
