"""The command line: `python -m agents worker`."""

import argparse
import logging
import os
import sys

from streams.errors import BadSettings, KafkaUnavailable
from streams.settings import Settings

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
    parser.parse_args(arguments)
    try:
        settings = Settings.from_environ(os.environ)
        if not settings.broker:
            raise BadSettings(
                "ACTIVESET_BROKER must be host:port of a Kafka, and is not set; `make serve` starts one of its own"
            )
        tell(settings.log_level)
        from agents import life  # after the settings: a mistake in them is told before Faust is imported

        life.main(settings)
    except (BadSettings, KafkaUnavailable) as why:
        print(f"activeset: {why}", file=sys.stderr)
        return why.exit_status


def tell(level: str) -> None:
    """Log our own words at the level that is set, and of the libraries' only what is unusual."""
    form = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, format=form, level="DEBUG" if level == "debug" else "WARNING")
    logging.getLogger("activeset").setLevel(level.upper())
    if level != "debug":
        logging.getLogger("aiokafka").setLevel("ERROR")  # it warns of every join and leave


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
