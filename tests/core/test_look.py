import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agents.__main__ import main
from agents.look import NoAnswer, asked, outline, projects_told, rejected_in, rejected_told, table
from streams.errors import MalformedEvent
from streams.partition import partition_of
from streams.record import UNREADABLE, Record, Stored
from streams.rejection import rejection

HOUSE = Path(__file__).parents[2]


async def topic(name: str, *events: dict[str, Any], partitions: int = 8) -> AsyncIterator[Stored]:
    for offset, event in enumerate(events):
        whole = {"workspace_id": "w", "project_id": "p", "timestamp": 1, "dataset_storage_id": "s", **event}
        key = str(whole["project_id"]).encode()
        home = event.get("partition", partition_of(key, partitions))
        yield Stored(Record(name, home, key, json.dumps(whole).encode(), []), offset, partitions)


async def test_the_projects_are_those_that_were_told_later_than_they_were_deleted() -> None:
    updates = topic(
        "project_updates",
        {"name": "old"},
        {"timestamp": 3, "name": "new"},
        {"timestamp": 2, "name": "late"},
        {"project_id": "gone", "timestamp": 5},
        {"project_id": "lost", "partition": (partition_of(b"lost", 8) + 1) % 8},
        {"project_id": "wrong", "tasks": 7},
    )
    deletions = topic("project_deletions", {"timestamp": 2}, {"project_id": "gone", "timestamp": 5})

    [project] = await projects_told(updates, deletions)

    assert (project["project_id"], project["name"]) == ("p", "new")
    assert project["told_at"] == "1970-01-01T00:00:00.003000+00:00"


async def test_a_project_lies_where_the_partitions_of_its_topic_say() -> None:
    updates = topic("project_updates", {"project_id": "p1"}, {"project_id": "p2"}, partitions=3)

    told = await projects_told(updates, topic("project_deletions", partitions=3))

    assert {each["project_id"]: each["partition"] for each in told} == {
        "p1": partition_of(b"p1", 3),
        "p2": partition_of(b"p2", 3),
    }


def rejected(n: int, came_in: str = "media_uploads") -> Record:
    return rejection(Record(came_in, 2, b"p", b"{", []), n, MalformedEvent(f"reason {n}"), "rejected_events")


async def rejections(count: int) -> AsyncIterator[Stored]:
    for n in range(count):
        yield Stored(rejected(n)._replace(timestamp_s=float(n % 7)), n, 8)


async def test_the_rejected_events_that_came_last_are_told_with_their_reasons() -> None:
    told = await rejected_told(rejections(21), 3)

    assert [(each["error"], each["at"][17:19]) for each in told] == [
        ("reason 6", "06"),
        ("reason 13", "06"),
        ("reason 20", "06"),
    ]
    assert (told[0]["topic"], told[0]["offset"], told[0]["length"], told[0]["value"]) == (
        "media_uploads",
        "6",
        "1",
        "ew==",
    )


async def test_what_cannot_be_read_among_rejected_events_is_told_as_such() -> None:
    async def unreadable() -> AsyncIterator[Stored]:
        yield Stored(Record("rejected_events", 0, None, b"", [(UNREADABLE, b"cannot be unpacked")], 1e15), 7, 8)

    [told] = await rejected_told(unreadable(), 3)

    assert (told["error"], told["topic"], told["rejected_offset"]) == ("cannot be unpacked", "", 7)
    assert told["at"] == "1000000000000000000"


@pytest.mark.parametrize(
    ("came_in", "project", "wanted"),
    [
        (None, None, True),
        ("media_uploads", "p", True),
        ("media_uploads", "q", False),
        ("media_deletions", None, False),
    ],
)
def test_rejected_events_may_be_those_of_a_topic_or_a_project(
    came_in: str | None, project: str | None, wanted: bool
) -> None:
    assert rejected_in(came_in, project)(rejected(1)) == wanted


def test_a_table_is_aligned_and_cuts_what_is_long() -> None:
    told = table([{"a": "x" * 200, "b": ["t1", "t2"]}, {"a": "y"}], ("a", "b"))

    lines = told.splitlines()
    assert lines[0].index("b") == lines[1].index("t1, t2")
    assert "..." in lines[1]


def test_an_outline_has_a_line_for_each_value() -> None:
    told = outline({"media": {"total": 4}, "tasks": [{"coverage": 2 / 3, "counts": [1, 0], "lag": {}}]})

    assert told.splitlines() == [
        "media:",
        "  total: 4",
        "tasks:",
        "  -",
        "    coverage: 0.6667",
        "    counts: 1, 0",
        "    lag: none",
    ]


def test_what_events_tell_cannot_steer_a_terminal_or_break_a_line() -> None:
    told = "red \x1b[31m\x9b2J\u202eder\r\nCafé 猫"

    shown = [table([{"a": told}], ("a",)), outline({told: told, "nested": [{"a": [told]}]})]

    assert all("\x1b" not in each and "\x9b" not in each and "\u202e" not in each for each in shown)
    assert shown[0].splitlines()[1] == r"red \x1b[31m\x9b2J\u202eder\r\nCafé 猫"
    assert len(shown[1].splitlines()) == 4


def test_settings_are_told_with_their_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIVESET_PARTITIONS", "4")

    status = main(["settings", "--json"])

    told = {each["variable"]: (each["value"], each["origin"]) for each in json.loads(capsys.readouterr().out)}
    assert status == 0
    assert told["ACTIVESET_PARTITIONS"] == ("4", "environment")
    assert told["ACTIVESET_REPLICATION"] == ("1", "default")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rejected", "--limit", "0"], "must be 1..10000, not '0'"),
        (["rejected", "--limit", "10001"], "must be 1..10000"),
        (["medium", "p1"], "medium"),
        (["look"], "invalid choice"),
        (["project", "p1", "--url", "http://[::1"], "--url: must be http://host:port, not 'http://[::1'"),
        (["project", "p1", "--url", "http://h:99999"], "--url: must be http://host:port, not 'http://h:99999'"),
        (["project", "p1", "--url", "h:6066"], "--url: must be http://host:port, not 'h:6066'"),
    ],
)
def test_a_wrong_command_ends_with_2_and_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as why:
        main(arguments)

    assert why.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("command", [["project", "p1"], ["medium", "p1", "image:m1"]])
def test_a_worker_that_does_not_answer_is_told(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    status = main([*command, "--url", "http://127.0.0.1:1"])

    assert status == 1
    assert "no worker answers at http://127.0.0.1:1" in capsys.readouterr().err


@pytest.fixture
async def no_worker() -> AsyncIterator[tuple[str, list[str], dict[str, Any]]]:
    """Where something else answers, the paths that it was asked for, and what it answers."""
    paths: list[str] = []
    answer: dict[str, Any] = {}

    async def answers(request: web.Request) -> web.Response:
        paths.append(request.rel_url.raw_path)
        return web.Response(**answer)

    app = web.Application()
    app.router.add_get("/{path:.*}", answers)
    async with TestServer(app) as server:
        yield str(server.make_url("")), paths, answer


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (404, "", "404, and no JSON object"),
        (404, "[1]", "404, and no JSON object"),
        (200, "[1]", "200, and no JSON object"),
        (200, '{"a":' * 100_000 + "1" + "}" * 100_000, "RecursionError"),
    ],
    ids=["empty", "list", "list with 200", "deep"],
)
async def test_what_is_no_workers_answer_is_told(
    no_worker: tuple[str, list[str], dict[str, Any]], status: int, body: str, told: str
) -> None:
    url, _, answer = no_worker
    answer.update(status=status, text=body)

    with pytest.raises(NoAnswer, match=f"no worker answers at .*{told}"):
        await asked(url, "v1", "projects", "p1")


async def test_a_worker_is_asked_for_an_id_whatever_stands_in_it(
    no_worker: tuple[str, list[str], dict[str, Any]],
) -> None:
    url, paths, answer = no_worker
    answer.update(text="{}")

    await asked(url, "v1", "projects", "/p 1%2F?")

    assert paths == ["/v1/projects/%2Fp%201%252F%3F"]


def test_topics_are_not_read_without_a_broker(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ACTIVESET_BROKER", raising=False)

    assert main(["projects"]) == 2
    assert "ACTIVESET_BROKER must be host:port" in capsys.readouterr().err


def command(*arguments: str, stdout: int | None = None, **environ: str) -> "subprocess.Popen[bytes]":
    """An operator's command, which has begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "agents", *arguments],
        cwd=HOUSE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, **environ},
    )


def test_what_cannot_be_written_is_told() -> None:
    with Path("/dev/full").open("wb") as full, command("settings", stdout=full.fileno()) as program:
        _, said = program.communicate(timeout=60)

    assert (program.returncode, said) == (1, b"activeset: cannot write the answer: No space left on device\n")


def test_what_the_output_has_no_character_for_is_escaped() -> None:
    told = {"PYTHONIOENCODING": "ascii", "ACTIVESET_STATE_DIR": "/tmp/caf\u00e9"}

    with command("settings", stdout=subprocess.PIPE, **told) as program:
        said, _ = program.communicate(timeout=60)

    assert program.returncode == 0
    assert rb"/tmp/caf\xe9" in said


def test_a_command_whose_reader_has_gone_ends_quietly_as_other_programs_do() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    with command("settings", stdout=writer) as program:
        os.close(writer)
        _, said = program.communicate(timeout=60)

    assert (program.returncode, said) == (-signal.SIGPIPE, b"")


def test_ctrl_c_ends_a_command_that_waits_quietly_as_it_ends_other_programs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as worker:
        worker.settimeout(60)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # were it ignored, so would it be in there
        with command("project", "p1", "--url", f"http://127.0.0.1:{worker.getsockname()[1]}") as program:
            signal.signal(signal.SIGINT, before)
            client, _ = worker.accept()
            with client:
                program.send_signal(signal.SIGINT)
                _, said = program.communicate(timeout=60)

    assert (program.returncode, said) == (-signal.SIGINT, b"")
