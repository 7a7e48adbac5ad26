"""The log: a line for each thing, as text for people or as JSON for programs.

It tells where records and requests are (topic, partition, offset; method and path), and never what they carry.
"""

import json
import logging
import sys
from types import TracebackType

from streams.times import iso

log = logging.getLogger("activeset")

TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class Json(logging.Formatter):
    """Writes each message as one JSON object in one line, in ASCII."""

    def format(self, record: logging.LogRecord) -> str:
        """The object: time (ISO 8601, UTC), level, logger, message; exception and stack where there are any."""
        told = {
            "time": iso(round(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = self.formatStack(record.stack_info)
        return json.dumps(told)


def begin(level: str, form: str) -> None:
    """Log our own words at a level, and of the libraries' only what is unusual; at `debug` also what they do.

    Nothing lower of them: that shows whole requests and records. form: `text` or `json`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if form == "json" else logging.Formatter(TEXT))
    logging.basicConfig(handlers=[handler], level="INFO" if level == "debug" else "WARNING", force=True)
    log.setLevel(level.upper())
    # It warns of every join and leave.
    logging.getLogger("aiokafka").setLevel("INFO" if level == "debug" else "ERROR")
    logging.captureWarnings(True)
    if form == "json":
        sys.excepthook = crashed


def crashed(kind: type[BaseException], why: BaseException, trace: TracebackType | None) -> None:
    """Log what nobody has caught, where Python would print it."""
    log.critical("the program ends: %s", kind.__name__, exc_info=(kind, why, trace))
