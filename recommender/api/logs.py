"""How every long-running part of ours logs: one JSON object a line, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

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
    """Set the root logger up; once, by the program. What Python itself would write there comes as lines, too: warnings,
    and errors that nobody catches, be it in a thread or in a destructor."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        logger.info("interrupted")
        return
    logger.critical("an error that nobody caught ends the program", exc_info=(kind, error, trace))


def _uncaught_in_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None:
        name = ended.thread.name if ended.thread else "a thread"
        exc_info = (ended.exc_type, ended.exc_value, ended.exc_traceback)
        logger.error("an error that nobody caught ends the thread %s", name, exc_info=exc_info)


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    if found.exc_value is not None:
        exc_info = (found.exc_type, found.exc_value, found.exc_traceback)
        logger.error("%s %r", found.err_msg or "an error is passed over in", found.object, exc_info=exc_info)
