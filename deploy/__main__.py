"""The command line of what runs beside a worker: `python -m deploy serve`."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from deploy import jars
from deploy.serve import console, kafka, serve
from streams.errors import ActivesetError
from streams.settings import Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS = {
    "serve": "run a local Kafka (unless ACTIVESET_BROKER names one) and one worker, until Ctrl-C",
    "demo": "show active learning on real images, against labels by lot: half a minute",
    "kafka": "run a local Kafka until Ctrl-C; its address is printed once it answers",
    "fetch": "fetch the local Kafka's jars, so that it starts without a network",
    "jars": "ask Maven Central which jars make Kafka, and write them to deploy/kafka.jars",
}


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name; the answer is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description="What runs beside Activeset's workers.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, meaning in COMMANDS.items():
        commands.add_parser(name, help=meaning, description=meaning)
    command = parser.parse_args(arguments).command
    try:
        settings = Settings.from_environ(os.environ)
        if command == "jars":
            return write_jars()
        if command == "fetch":
            return fetch(settings)
        if command == "demo":
            from deploy.demo import demo  # scikit-learn and matplotlib take a second to import

            return asyncio.run(until_signal(demo(settings), stopped=1))
        return asyncio.run(until_signal((serve if command == "serve" else kafka)(settings)))
    except ActivesetError as why:
        # `fetch` is run by the others, which tell its error as theirs.
        told = str(why) if command == "fetch" else f"activeset: {why}"
        print(told, file=sys.stdout if command == "fetch" else sys.stderr)
        return why.exit_status


async def until_signal(work: Coroutine[None, None, int], stopped: int = 0) -> int:
    """Do the work until it is done, or until a signal cancels it; `stopped` is the exit status then.

    Only the first signal counts: a second one must not cut short how our programs are ended; that is bounded anyway.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for each in SIGNALS:
        loop.add_signal_handler(each, lambda: task.cancelling() or task.cancel())
    try:
        return await task
    except asyncio.CancelledError:
        return stopped
    finally:
        for each in SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)  # all is done but the exit


def fetch(settings: Settings) -> int:
    """Fetch what is missing, and show how it arrives; a signal ends it in order."""
    for each in SIGNALS:
        signal.signal(each, lambda *_: sys.exit(1))
    cache = settings.cache_dir.expanduser()
    jars.ensure(cache, jars.listed(), progress=fetching)
    console.print(f"Apache Kafka {jars.VERSION} is in {cache}.")
    return 0


@contextmanager
def fetching(files: int, size: int) -> Iterator[jars.Arrived]:
    """Show how the jars arrive."""
    console.print(f"Fetching Apache Kafka {jars.VERSION}: {files} jars, {size / 1e6:.0f} MB, once for this machine.")
    columns = (TextColumn("  {task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("jars", total=size)
        yield lambda more: bar.advance(task, more)


def write_jars() -> int:
    """Renew the list of jars, with an empty cache, so that every byte was fetched for it."""
    with tempfile.TemporaryDirectory() as cache:
        found = jars.resolve(Path(cache))
    head = f"# Apache Kafka {jars.VERSION}, by `make lock`: SHA-256, bytes, Maven coordinates; in class path order.\n"
    jars.LIST.write_text(head + "".join(f"{jar}\n" for jar in found))
    print(f"{len(found)} jars, {sum(jar.size for jar in found) / 1e6:.0f} MB: {jars.LIST}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
