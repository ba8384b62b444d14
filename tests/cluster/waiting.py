"""Waiting for what a watch has to bring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object]) -> None:
    """Until it holds; for three minutes at most."""
    async with asyncio.timeout(180):
        while not condition():
            await asyncio.sleep(0.01)
