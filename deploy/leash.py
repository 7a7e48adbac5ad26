"""Run a program that ends when the process that started it does, even if that one was killed (on Linux).

    python deploy/leash.py PARENT_PID PROGRAM ARGUMENT...

Becomes the program: same pid, same streams. A wrapper and not a `preexec_fn`, which is not safe in a program that has
threads. Elsewhere than on Linux the program is run without the leash.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(parent: int, command: list[str]) -> None:
    """Tie this process to its parent, and become the program."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the leash was on
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
