"""Times: milliseconds since the epoch inside, ISO 8601 in UTC for whoever reads them."""

from datetime import UTC, datetime


def iso(at: int) -> str:
    """A time as people and clients see it; as it is, if it is in no year that they know.

    at: milliseconds since the epoch.

    >>> iso(1_767_225_600_123)
    '2026-01-01T00:00:00.123000+00:00'
    """
    try:
        return datetime.fromtimestamp(at / 1000, UTC).isoformat()
    except (OverflowError, OSError, ValueError):
        return str(at)
