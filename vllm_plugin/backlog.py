"""Work that is put off until there is enough of it.

Between two requests vLLM's scheduler runs through so much else that neither the estimator's code nor its tables are in
the processor's caches any more: alone, the bookkeeping of one request takes three times as long as after another's.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import Any, Callable

from vllm_plugin.guard import Hook

_MOST_CALLS = 24
_MOST_BLOCKS = 4096
"""Hashes of so many blocks are kept alive by calls that wait: 0.3 MB."""


class Backlog:
    """Calls in the order in which they came, made together by whoever brings the last one or asks for the result.

    That is code of the plugin already, and its time is counted there. One thread adds; any thread may clear.
    """

    def __init__(self, of: Hook) -> None:
        """`of`: counts the calls that fail; where it is off, none is made."""
        self._hook = of
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = deque()
        self._blocks = 0
        self.renew()
        _backlogs.add(self)

    def add(self, blocks: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """`blocks`: whose hashes only this call keeps alive."""
        if not self._hook.active:
            return
        self._calls.append((call, args, kwargs))
        self._blocks += blocks
        if len(self._calls) >= _MOST_CALLS or self._blocks >= _MOST_BLOCKS:
            self.clear()

    def clear(self, patience_seconds: float = 0.0) -> None:
        """Make all calls. Where another thread is at it, this one leaves them to that, once it has waited so long."""
        # A child that is forked in the middle has another lock at the end.
        lock = self._lock
        if not lock.acquire(timeout=patience_seconds):
            return
        try:
            self._blocks = 0
            while self._calls:
                call, args, kwargs = self._calls.popleft()
                if not self._hook.active:
                    continue
                try:
                    call(*args, **kwargs)
                    self._hook.succeeded()
                except Exception as error:
                    self._hook.failed(error)
        finally:
            lock.release()

    def renew(self) -> None:
        """In a forked child the lock's holder may not exist."""
        self._lock = threading.Lock()


_backlogs: weakref.WeakSet[Backlog] = weakref.WeakSet()


def _renew_all() -> None:
    for one in list(_backlogs):
        one.renew()


os.register_at_fork(after_in_child=_renew_all)
