"""Ctrl-C and the signals that end a program, turned into an exception, but never in the middle of starting or
stopping a process: a child that nobody has noted yet would be left behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(KeyboardInterrupt):
    """The user, or the system, wants the program to end. As a KeyboardInterrupt it passes through asyncio untouched."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class _Shield:
    depth = 0
    held_back: int | None = None


_shield = _Shield()


def _handle(number: int, _frame: FrameType | None) -> None:
    if _shield.depth:
        _shield.held_back = number
    else:
        raise StoppedError(number)


@contextlib.contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Inside, the signals raise `StoppedError` in the main thread; afterwards they do what they did before."""
    previous = {number: signal.signal(number, _handle) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back such a signal until the end of the block; only for blocks that end soon by themselves."""
    _shield.depth += 1
    try:
        yield
    finally:
        _shield.depth -= 1
    if not _shield.depth and _shield.held_back is not None:
        number, _shield.held_back = _shield.held_back, None
        raise StoppedError(number)
