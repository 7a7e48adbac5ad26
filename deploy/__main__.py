"""The command line of what runs beside a worker: `python -m deploy serve`."""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path

from deploy import jars
from deploy.serve import kafka, serve
from streams.errors import BadSettings, KafkaUnavailable
from streams.settings import Settings

COMMANDS = {
    "serve": "run a local Kafka (unless ACTIVESET_BROKER names one) and one worker, until Ctrl-C",
    "kafka": "run a local Kafka until Ctrl-C; its address is printed once it answers",
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
        return asyncio.run(until_signal((serve if command == "serve" else kafka)(settings)))
    except BadSettings as why:
        print(f"activeset: {why}", file=sys.stderr)
        return 2
    except KafkaUnavailable as why:
        print(f"activeset: {why}", file=sys.stderr)
        return 1


async def until_signal(work: Coroutine[None, None, int]) -> int:
    """Do the work until it is done, or until a signal cancels it, which is a good end: 0.

    Only the first signal counts: a second one must not cut short how our programs are ended; that is bounded anyway.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def stop() -> None:
        task.cancel()
        for each in signals:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_IGN)

    for each in signals:
        loop.add_signal_handler(each, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return 0


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
