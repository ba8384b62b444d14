"""The event loop's clock, put forward: a deadline passes when a test wants it to, and not on a slow machine before."""

from __future__ import annotations

import asyncio


def later(seconds: float) -> None:
    """So much time has passed, to whatever waits on the running loop."""
    loop = asyncio.get_running_loop()
    before = loop.time
    loop.time = lambda: before() + seconds  # type: ignore[method-assign]  # loops live no longer than a test
