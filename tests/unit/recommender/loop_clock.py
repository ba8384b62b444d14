"""The event loop's clock, put forward: a deadline passes when a test wants it to, and not on a slow machine before."""

from __future__ import annotations

import asyncio
from unittest.mock import patch


def later(seconds: float) -> None:
    """So much time has passed, to whatever waits on the running loop. It stays so: loops live no longer than a test."""
    loop = asyncio.get_running_loop()
    before = loop.time
    patch.object(loop, "time", lambda: before() + seconds).start()
