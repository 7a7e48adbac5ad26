"""The command line: `python -m agents worker`, and what an operator looks in with."""

import argparse
import asyncio
import io
import os
import signal
import sys
from typing import Any

from yarl import URL

from streams import logs, tls
from streams.errors import ActivesetError, BadSettings
from streams.settings import Settings

WITHOUT_KAFKA = ("settings", "project", "medium")
# One BLAS thread, before anything imports numpy: scores are then equal to the byte on every worker.
for library in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[library] = "1"


def main(arguments: list[str]) -> int:
    """Run the command that the arguments name; the answer is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m agents", description="Activeset decides what to label next.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "worker",
        help="run one worker until Ctrl-C or SIGTERM",
        description="Run one worker until Ctrl-C or SIGTERM. What can be set is in the README: variables that start "
        "with ACTIVESET_. ACTIVESET_BROKER must name a Kafka; `make serve` starts one of its own.",
    )
    looks(commands)
    simulate = commands.add_parser(
        "simulate",
        help="simulate what choosing saves, against labels by lot",
        description="Whole rounds of training, asking and labelling, through a worker and a real Kafka that it starts "
        "(ACTIVESET_BROKER names another one), or in this process. It prints a table, and writes a CSV and a chart.",
    )
    if arguments[:1] == ["simulate"]:  # others need not wait for scikit-learn
        from agents import simulations

        simulations.arguments(simulate)
    given = parser.parse_args(arguments)
    try:
        settings = Settings.from_environ(os.environ)
        if given.command == "simulate":
            from agents import simulations

            return simulations.main(given, settings)
        if given.command not in WITHOUT_KAFKA and not settings.broker:
            raise BadSettings(
                "ACTIVESET_BROKER must be host:port of a Kafka, and is not set; `make serve` starts one of its own"
            )
        if given.command != "worker":
            return show(given, settings)
        return work(settings)
    except ActivesetError as why:
        print(f"activeset: {why}", file=sys.stderr)
        return why.exit_status


def work(settings: Settings) -> int:
    """Run a worker, which ends the process; the answer is the exit status of one that could not begin.

    Raises:
        ActivesetError: why it could not, where the log is for people.
    """
    logs.begin(settings.log_level, settings.log_format)
    from agents import life  # after the settings: a mistake in them is told before Faust is imported

    try:
        life.main(settings)
    except ActivesetError as why:
        if settings.log_format == "text":
            raise
        logs.log.critical("the worker does not begin: %s", why)
        return why.exit_status


def show(given: argparse.Namespace, settings: Settings) -> int:
    """Print what an operator's command tells; the answer is the exit status."""
    try:
        return write(asyncio.run(looked(given, settings)))
    except KeyboardInterrupt:
        return ended_by(signal.SIGINT)
    except BrokenPipeError:  # whoever reads has enough, as `head`
        return ended_by(signal.SIGPIPE)


def write(text: str) -> int:
    """Print a text, with what the encoding of the output has not escaped; the answer is the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as why:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        print(f"activeset: cannot write the answer: {why.strerror}", file=sys.stderr)
        return 1
    return 0


def ended_by(number: signal.Signals) -> int:
    """End as a program does that lets a signal end it: whoever has started it is told which."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    return 128 + number  # as shells say it; only if the signal is blocked


def looks(commands: Any) -> None:
    """The commands of an operator who looks in."""

    def command(name: str, told: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(name, help=told, description=f"{told.capitalize()}.")
        added.add_argument("--json", action="store_true", help="for programs")
        return added

    command("settings", "print the settings that count, and where each is from")
    command("projects", "list the projects, as the topics tell of them")
    rejected = command("rejected", "list the events that were rejected last, and why")
    rejected.add_argument("--limit", type=limit, default=20, metavar="N", help="how many, 1..10000 (20)")
    rejected.add_argument("--topic", help="only those that came in this topic, by its name in Kafka")
    rejected.add_argument("--project", help="only those of this project")
    project = command("project", "show a project: states, tiers, coverage, scores, labels")
    medium = command("medium", "show a medium: where it stands, and why")
    for each in (project, medium):
        each.add_argument("project", help="its id, or the id of the medium's project")
        each.add_argument("--url", type=address, help="of any worker (that of the settings)")
    medium.add_argument("medium", help="image:<id> or frame:<video id>:<index>")


def limit(text: str) -> int:
    """How many rejected events are wanted."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"must be 1..10000, not {text[:100]!r}")
    return int(text)


def address(text: str) -> str:
    """Where a worker is asked."""
    try:
        url = URL(text)
    except ValueError as why:
        raise argparse.ArgumentTypeError(f"must be http://host:port, not {text[:100]!r} ({why})") from why
    if url.scheme not in ("http", "https") or not url.host:
        raise argparse.ArgumentTypeError(f"must be http://host:port, not {text[:100]!r}")
    return text


async def looked(given: argparse.Namespace, settings: Settings) -> str:
    """What an operator's command prints."""
    from agents import look

    if given.command in ("project", "medium"):
        of = ("media", given.medium) if given.command == "medium" else ()
        trust = tls.trusted(settings) if given.url else tls.at_home(settings)
        told = await look.asked(given.url or settings.url, "v1", "projects", given.project, *of, trust=trust)
        try:
            return look.as_json(told) if given.json else look.outline(told)
        except RecursionError as why:
            raise look.NoAnswer("what answers is nested too deep for a worker; --url names another one") from why
    columns: tuple[str, ...]
    if given.command == "settings":
        rows, columns = look.settings_told(settings, os.environ), ("variable", "value", "origin")
    else:
        from streams.reader import last, records

        if given.command == "projects":
            updates, deletions = records(settings, "project_updates"), records(settings, "project_deletions")
            rows = await look.projects_told(updates, deletions)
            columns = ("project_id", "workspace_id", "name", "tasks", "told_at", "partition")
        else:
            wanted = look.rejected_in(given.topic, given.project)
            rejected = last(settings, "rejected_events", given.limit, wanted)
            rows = await look.rejected_told(rejected, given.limit)
            columns = ("at", "topic", "partition", "offset", "key", "length", "error")
    return look.as_json(rows) if given.json else look.table(rows, columns)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
