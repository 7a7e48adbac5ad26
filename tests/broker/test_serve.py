import os
import signal
from functools import partial
from pathlib import Path

from streams.lock import held
from tests.broker.conftest import Program, Start, until
from tests.conftest import Certificate

READY = "Activeset is ready"


def children(pid: int) -> dict[str, int]:
    """The programs that a process has started: by what each is, its pid (Linux)."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        found["kafka" if b"kafka.Kafka" in words else "worker" if b"agents" in words else "other"] = int(child)
    return found


async def test_serve_runs_a_kafka_and_a_worker_until_ctrl_c_and_leaves_nothing_behind(start: Start) -> None:
    serve = await start("deploy", "serve")
    await serve.says(READY)
    assert await serve.partitions() == list(range(8))
    for wanted in (r"broker +127\.0\.0\.1:\d+", f"web +{serve.url}/readyz", f"state +{serve.state}"):
        await serve.says(wanted)
    started = children(serve.process.pid)
    assert started.keys() == {"kafka", "worker"}

    serve.process.send_signal(signal.SIGINT)

    assert await serve.ends() == 0
    assert not [pid for pid in started.values() if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in serve.said()
    assert "ERROR" not in serve.said()


async def test_signal_upon_signal_still_leaves_nothing_behind(start: Start) -> None:
    serve = await start("deploy", "serve")
    await serve.says(READY)
    started = children(serve.process.pid)

    serve.process.send_signal(signal.SIGINT)
    await serve.says("worker: stopping")
    for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        serve.process.send_signal(again)

    assert await serve.ends() == 0
    assert not [pid for pid in started.values() if Path(f"/proc/{pid}").exists()]


async def test_serve_starts_a_worker_again_that_ended_by_itself_with_growing_pauses(start: Start) -> None:
    serve = await start("deploy", "serve")
    for pause_s in (1, 2):
        await until(partial(told, serve, times=pause_s), serve)
        os.kill(children(serve.process.pid)["worker"], signal.SIGKILL)
        await serve.says(rf"The worker ended by itself \(exit status -9\); it starts again in {pause_s} s")

    await until(partial(told, serve, times=3), serve)
    assert await serve.partitions() == list(range(8))


def told(serve: Program, times: int) -> bool:
    """Whether it has said so many times that it is ready."""
    return serve.said().count(READY) == times


async def test_serve_says_that_its_kafka_ended_and_ends(start: Start) -> None:
    serve = await start("deploy", "serve")
    await serve.says(READY)

    os.kill(children(serve.process.pid)["kafka"], signal.SIGKILL)

    assert await serve.ends() == 1
    await serve.says(r"activeset: the local Kafka ended by itself \(exit status -9\): .* \(its log: ")
    assert "Traceback" not in serve.said()


async def test_serve_uses_the_kafka_that_is_named(kafka: str, prefix: str, start: Start) -> None:
    serve = await start("deploy", "serve", broker=kafka, topic_prefix=prefix)
    await serve.says(READY)

    assert children(serve.process.pid).keys() == {"worker"}
    assert await serve.partitions() == list(range(8))
    assert await serve.stop() == 0


async def test_serve_says_where_it_is_over_https(
    kafka: str, prefix: str, start: Start, other_certificate: Certificate
) -> None:
    tls = {"tls_cert": other_certificate.cert, "tls_key": other_certificate.key}  # for a name that this machine has not
    serve = await start("deploy", "serve", broker=kafka, topic_prefix=prefix, **tls)

    await serve.says(READY)

    await serve.says(rf"web +{serve.url}/readyz")
    assert serve.url.startswith("https://")
    assert await serve.partitions() == list(range(8))


async def test_serve_ends_with_2_when_the_worker_cannot_be_set_up(
    kafka: str, prefix: str, start: Start, taken_port: int
) -> None:
    serve = await start("deploy", "serve", broker=kafka, topic_prefix=prefix, web_port=taken_port)

    assert await serve.ends() == 2
    assert f"activeset: ACTIVESET_WEB_PORT must be a port that is free on 127.0.0.1, not {taken_port}" in serve.said()


async def test_a_serve_that_was_killed_leaves_nothing_and_starts_again_at_once(start: Start, tmp_path: Path) -> None:
    first: Program = await start("deploy", "serve", state_dir=tmp_path / "same")
    await first.says(READY)
    first.process.kill()

    second = await start("deploy", "serve", state_dir=tmp_path / "same")

    await second.says(READY)
    assert await second.stop() == 0
    with held(tmp_path / "same" / "kafka" / "lock"):
        pass
