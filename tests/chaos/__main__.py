"""The command line: `python -m tests.chaos`, which `make chaos` runs."""

import argparse
import asyncio
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.chaos import failover
from tests.chaos.faults import FAULTS
from tests.chaos.schedule import Step, by_chance, one_by_one
from tests.chaos.trial import RATE, Trial
from tests.faults.cures import CURES

MINUTES = 3.0
MEDIA = 100_000
EACH_S = 5.0  # the shortest time that a fault takes, with the pause before it
STATE = Path(".state/chaos")
ABOUT = """Three workers on a Kafka of their own, under load, with clients at all of them. What befalls them, when and
for how long comes from the seed, and is printed before it begins. In the end the topics folded anew, the changelog,
every disk and the answers over HTTP must agree to the byte, and nobody may have been told what was not so. The exit
status is 1 where that is not so."""


def main(arguments: Sequence[str]) -> int:
    """Run what the arguments ask for; the answer is the exit status: 0, if all is as it must be."""
    given = parser().parse_args(arguments)
    if given.command == "failover":
        return failover.main(given.media, given.report or STATE / "failover.json")
    given.seed = int(time.time()) % 1_000_000 if given.seed is None else given.seed
    console = Console(highlight=False, soft_wrap=True)
    schedule = scheduled(given)
    again = f"python -m tests.chaos {told(given)}"
    console.print(f"seed {given.seed}. Again: {again}", markup=False)
    for step in schedule:
        console.print(str(step), markup=False)
    if given.dry:
        return 0

    def tell(line: str) -> None:
        print(line, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    minutes = None if given.faults or given.matrix else given.minutes
    trial = Trial(given.seed, schedule, folder, minutes, given.rate, given.without, again, tell=tell)
    try:
        report = asyncio.run(trial.run())
    except KeyboardInterrupt:
        console.print(f"Interrupted. Logs, disks and Kafka's data: {folder}", markup=False)
        return 130
    path = given.report or STATE / f"report-{given.seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report.write(path)
    report.show(console)
    console.print(f"Report: {path}", markup=False)
    if report.found:
        console.print(f"Logs, disks and Kafka's data: {folder}", markup=False)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def scheduled(given: argparse.Namespace) -> list[Step]:
    """What befalls whom."""
    chosen = {name: FAULTS[name] for name in given.only} if given.only else FAULTS
    if given.matrix:
        return one_by_one(given.seed, [*chosen], chosen)
    if given.only:
        chosen = {name: kind._replace(weight=1) for name, kind in chosen.items()}
    return by_chance(given.seed, given.faults or int(60 * given.minutes / EACH_S), chosen)


def told(given: argparse.Namespace) -> str:
    """The arguments that ask for the same."""
    words = ["--seed", str(given.seed)]
    if given.matrix:
        words.append("--matrix")
    elif given.faults:
        words += ["--faults", str(given.faults)]
    else:
        words += ["--minutes", f"{given.minutes:g}"]
    words += ["--only", ",".join(given.only)] if given.only else []
    words += ["--without", given.without] if given.without else []
    words += ["--rate", f"{given.rate:g}"] if given.rate != RATE else []
    return shlex.join(words)


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    faults = [f"  {name:18} {kind.of:7} {kind.meaning}" for name, kind in FAULTS.items()]
    cures = [f"  {name:18} {cure.__doc__}" for name, cure in CURES.items()]
    made = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=ABOUT,
        epilog="\n".join(["faults:", *faults, "", "cures:", *cures]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("command", nargs="?", choices=["failover"], help="only measure how long nobody answers")
    made.add_argument(
        "--media", type=int, default=MEDIA, metavar="N", help=f"of failover: of the largest project ({MEDIA})"
    )
    made.add_argument("--seed", type=int, metavar="N", help="what all is chosen by; by default another one at each run")
    made.add_argument(
        "--minutes", type=minutes, default=MINUTES, metavar="M", help=f"how long faults begin ({MINUTES:g})"
    )
    made.add_argument("--faults", type=count, metavar="N", help="so many faults, however long they take")
    made.add_argument(
        "--matrix", action="store_true", help="every fault once, each when all is well, also the slow ones"
    )
    made.add_argument("--only", type=names, metavar="NAME,...", help="only these faults, also slow ones")
    made.add_argument(
        "--without", choices=CURES, default="", metavar="CURE", help="workers lack a cure: it must be found out"
    )
    made.add_argument("--rate", type=float, default=RATE, metavar="R", help=f"events a second ({RATE:g})")
    made.add_argument("--report", type=Path, metavar="FILE", help=f"where the report goes ({STATE}/report-SEED.json)")
    made.add_argument("--dry", action="store_true", help="print the schedule, and do nothing")
    return made


def minutes(text: str) -> float:
    """How long."""
    if not 0 < (value := float(text)) <= 24 * 60:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1440, not {text}")
    return value


def count(text: str) -> int:
    """How many."""
    if not 0 < (value := int(text)) <= 10_000:
        raise argparse.ArgumentTypeError(f"must be 1..10000, not {text}")
    return value


def names(text: str) -> list[str]:
    """Which faults."""
    chosen = [each for each in text.split(",") if each]
    if strange := [each for each in chosen if each not in FAULTS] or not chosen:
        raise argparse.ArgumentTypeError(f"no such fault: {strange}; there are {', '.join(FAULTS)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
