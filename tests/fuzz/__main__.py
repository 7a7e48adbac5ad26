"""`python -m tests.fuzz MINUTES`: round after round, each with chances of its own, until so many minutes are over."""

import argparse
import sys
import time

import pytest


def main(minutes: float) -> int:
    """Fuzz for so long, and to the end of the round; the exit status is that of the round that found something."""
    ends, rounds = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < ends:
        rounds += 1
        status = int(pytest.main(["-q", "--timeout", "1200", "--show-capture=no", "tests/fuzz"]))
        if status:
            return status
    print(f"{rounds} rounds, nothing found")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Events and requests nobody thought of.")
    parser.add_argument(
        "minutes", nargs="?", type=float, default=1.0, help="for how long, and to the end of a round (1)"
    )
    sys.exit(main(parser.parse_args().minutes))
