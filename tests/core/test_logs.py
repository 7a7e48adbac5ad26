import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streams.logs import Json

HOUSE = Path(__file__).parents[2]
SAYS = r"""
import logging, sys, warnings
from streams import logs
logs.begin({level!r}, {form!r})
for name in ("activeset.state", "faust.app", "aiokafka.conn", "aiohttp.server", "mode.services"):
    for say in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger(name), say)("said by %s as %s", name, say)
warnings.warn("said by Python")
logging.getLogger("activeset.web").info("of two\nlines, and \ud800")
raise OSError("nobody caught it")
"""


def run(program: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """What a program of ours says, with these settings."""
    around = {name: text for name, text in os.environ.items() if not name.startswith("ACTIVESET_")}
    ours = {f"ACTIVESET_{name}": text for name, text in settings.items()}
    return subprocess.run(
        [sys.executable, *program.split(" ")] if program.startswith("-m") else [sys.executable, "-c", program],
        env={**around, **ours, "PYTHONPATH": str(HOUSE)},
        cwd=HOUSE,
        capture_output=True,
        text=True,
    )


def lines(level: str) -> list[dict[str, Any]]:
    """What is said as JSON at a level."""
    said = run(SAYS.format(level=level, form="json"))
    return [json.loads(line) for line in said.stderr.splitlines()]


def told(level: str) -> set[tuple[str, str]]:
    """Who says something at a level, and how."""
    return {(line["logger"].partition(".")[0], line["level"]) for line in lines(level)}


def test_every_line_of_a_json_log_is_an_object_whoever_says_it() -> None:
    said = lines("info")

    assert {"time", "level", "logger", "message"} <= {*said[0]}
    assert all(line["time"].endswith("+00:00") for line in said)
    assert [line["message"] for line in said if line["logger"] == "activeset.state"] == [
        f"said by activeset.state as {level}" for level in ("info", "warning", "error")
    ]
    [warned] = [line["message"] for line in said if line["logger"] == "py.warnings"]
    assert "said by Python" in warned
    assert [line["message"] for line in said if line["logger"] == "activeset.web"] == ["of two\nlines, and \ud800"]


def test_what_ends_a_program_is_a_field_of_the_last_line() -> None:
    last = lines("info")[-1]

    assert last["level"] == "critical"
    assert last["exception"].startswith("Traceback")
    assert last["exception"].endswith("OSError: nobody caught it")


def test_of_the_libraries_only_what_is_unusual_is_said() -> None:
    assert told("info") == {
        *(("activeset", level) for level in ("info", "warning", "error", "critical")),
        *((name, level) for name in ("faust", "aiohttp", "mode") for level in ("warning", "error")),
        ("aiokafka", "error"),
        ("py", "warning"),
    }


def test_also_at_debug_no_library_shows_what_it_sends_and_reads() -> None:
    assert {who for who, level in told("debug") if level == "debug"} == {"activeset"}


def test_as_text_a_line_begins_with_its_time() -> None:
    said = run(SAYS.format(level="warning", form="text")).stderr

    assert "WARNING activeset.state: said by activeset.state as warning" in said
    assert "as info" not in said


def test_an_exception_is_told_without_a_message_of_its_own() -> None:
    try:
        raise KeyError("x")
    except KeyError:
        record = logging.LogRecord("a", logging.ERROR, "", 1, "%s went wrong", ("it",), sys.exc_info())

    line = Json().format(record)

    assert json.loads(line)["message"] == "it went wrong"
    assert json.loads(line)["exception"].endswith("KeyError: 'x'")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"LOG_FORMAT": "xml"}, 2, "activeset: ACTIVESET_LOG_FORMAT must be one of text, json, not 'xml'"),
        ({"LOG_FORMAT": "json", "TLS_CERT": str(HOUSE / "LICENSE"), "TLS_KEY": str(HOUSE / "LICENSE")}, 2, "TLS_CERT"),
    ],
)
def test_a_setting_that_makes_no_sense_stops_the_start(
    settings: dict[str, str], status: int, said: str, tmp_path: Path
) -> None:
    ended = run("-m agents worker", BROKER="127.0.0.1:1", DATA_DIR=str(tmp_path), **settings)

    assert (ended.returncode, said in ended.stderr) == (status, True)
    if settings["LOG_FORMAT"] == "json":
        assert {json.loads(line)["level"] for line in ended.stderr.splitlines()} == {"critical"}
