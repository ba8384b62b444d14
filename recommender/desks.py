"""Work that takes longer than an event loop may wait: in one thread of its own, one piece after the other.

Rounds and probes go on meanwhile. How much waits is bounded, and so is how long a piece may take.
"""

from __future__ import annotations

import asyncio
import functools
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_LOOK_SECONDS = 0.5
"""Between two looks whether somebody still waits for the answer."""


class BusyError(Exception):
    """As much waits already as may wait."""


class StoppedError(Exception):
    """It took too long (`late`), or nobody waits for the answer any more, or the desk was closed."""

    def __init__(self, late: bool) -> None:
        super().__init__("it took too long" if late else "it is not wanted any more")
        self.late = late


class Leave:
    """By which a piece of work asks, between its steps, whether it may go on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = math.inf
        self._gone = threading.Event()

    def begin(self) -> None:
        self._until = time.monotonic() + self._seconds

    def revoke(self) -> None:
        self._gone.set()

    def check(self) -> None:
        """Raises `StoppedError`."""
        if self._gone.is_set() or time.monotonic() > self._until:
            raise StoppedError(late=not self._gone.is_set())


class Desk:
    """One thread; `waiting` pieces may wait for it, and each may take `seconds` from its turn on."""

    def __init__(self, name: str, waiting: int, seconds: float) -> None:
        self.seconds = seconds
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._places = waiting + 1
        self._leaves: set[Leave] = set()
        self._closed = False

    async def do(self, work: Callable[[Leave], T], wanted: Callable[[], Awaitable[bool]]) -> T:
        """What `work` returns. Raises `BusyError`, or `StoppedError` where `work` asked in vain."""
        if self._closed:
            raise StoppedError(late=False)
        if not self._places:
            raise BusyError
        self._places -= 1
        leave = Leave(self.seconds)
        self._leaves.add(leave)

        def turn() -> T:
            leave.begin()
            leave.check()
            return work(leave)

        doing = asyncio.get_running_loop().run_in_executor(self._executor, turn)
        doing.add_done_callback(functools.partial(self._free, leave))
        try:
            while not doing.done():
                await asyncio.wait({doing}, timeout=_LOOK_SECONDS)
                if not doing.done() and not await wanted():
                    leave.revoke()
        except asyncio.CancelledError:
            leave.revoke()
            raise
        if doing.cancelled():
            # The desk was closed before its turn.
            raise StoppedError(late=False)
        return doing.result()

    def close(self) -> None:
        """Nothing more is begun, and what is being done is given up."""
        self._closed = True
        for leave in self._leaves:
            leave.revoke()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _free(self, leave: Leave, doing: asyncio.Future[T]) -> None:
        self._leaves.discard(leave)
        self._places += 1
        if not doing.cancelled():
            # What came of it for nobody is no error of the loop's.
            doing.exception()
