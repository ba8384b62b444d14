"""How every long-running part of ours logs: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

_PLAIN = frozenset((*vars(logging.makeLogRecord({})), "color_message"))
"""What every record has, and uvicorn's second copy of its message."""
_NOISY = ("httpx", "httpcore", "uvicorn.access")
"""Libraries that would write a line for each request."""


class LineFormatter(logging.Formatter):
    """A record as one line; what stands over several, a traceback among it, becomes one string.

    What the caller gives as `extra` (an admission request's uid) stands beside the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN and name not in line}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Set the root logger up; once, by the program."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
