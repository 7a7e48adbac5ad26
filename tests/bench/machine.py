"""What processes have taken, and what machine this is."""

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("faust-streaming", "aiokafka", "aiohttp", "msgspec", "numpy", "rocksdict", "scikit-learn")
STEPS = 1_000_000
ONE_THREAD: dict[str, str] = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def cpu_s(pid: int) -> float:
    """The CPU time that a process and its threads have taken (Linux: to the nanosecond, not in ticks of 10 ms)."""
    return time.clock_gettime(~pid << 3 | 2)  # what clock_getcpuclockid answers


def peak_mib(pid: int) -> float:
    """The most memory that a process has had (VmHWM)."""
    [told] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(told.split()[1]) / 1024


def step_ns() -> float:
    """What a step of a plain loop takes now: on a machine that others use, the same program may take twice as long."""
    took = []
    for _ in range(3):
        began, whole = time.thread_time_ns(), 0
        for n in range(STEPS):
            whole += n * n & 7
        took.append((time.thread_time_ns() - began) / STEPS)
    return min(took)


def machine() -> dict[str, str]:
    """What all numbers depend on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "cpu": f"{cpu}, {os.cpu_count()} cores",
        "step of a loop": f"{step_ns():.0f} ns",
        "load": " ".join(f"{each:.1f}" for each in os.getloadavg()),
        "BLAS threads": os.environ["OPENBLAS_NUM_THREADS"],
        "Python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
