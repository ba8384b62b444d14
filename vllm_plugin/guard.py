"""What stands between the plugin's own code and vLLM's: errors are swallowed and counted, and repeated ones end it."""

from __future__ import annotations

import functools
import inspect
import logging
import time
from contextlib import suppress
from typing import Any, Callable

logger = logging.getLogger("vllm.rightsizer")
"""Below vLLM's own logger, hence in its format and at its level."""

_TOO_MANY = 5
_FORGIVEN_BY_SUCCESS = 0.1
MARK = "_vllm_rightsizer"
"""An attribute of every function that stands before one of vLLM's."""


class Hook:
    """One place where vLLM is hooked, with its cost and health.

    Five failures switch it off; each ten successes in between make up for one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.active = True
        self.errors = 0
        self.seconds = 0.0
        self.clock: Callable[[], float] = time.perf_counter
        """Seconds; of a thread beside vLLM's the processor's, for what it waits is not taken from vLLM."""
        self._strain = 0.0
        hooks[name] = self

    def run(self, observe: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the plugin's own code and count its time; None if it failed or the hook is off."""
        if not self.active:
            return None
        start = self.clock()
        try:
            result = observe(*args, **kwargs)
            if self._strain:
                self.succeeded()
            return result
        except Exception as error:
            self.failed(error)
            return None
        finally:
            self.seconds += self.clock() - start

    def within(self, observe: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`run` within another hook's, whose time contains this one's."""
        before = self.seconds
        try:
            return self.run(observe, *args, **kwargs)
        finally:
            self.seconds = before

    def switch_off(self, why: str) -> None:
        """From now on only vLLM's own code runs here."""
        if self.active:
            self.active = False
            warn("vllm-rightsizer's hook %s is off: %s. vLLM itself is not affected.", self.name, why)

    def succeeded(self) -> None:
        """The plugin's own code did its work, where `run` does not see it."""
        if self._strain:
            self._strain = max(self._strain - _FORGIVEN_BY_SUCCESS, 0.0)

    def failed(self, error: Exception) -> None:
        """The plugin's own code raised this: count it. For callers that cannot afford `run`."""
        self._strain += 1
        self.count(error)
        if self._strain >= _TOO_MANY:
            self.switch_off(f"{self.errors} errors, the last one {shown(error)}")

    def count(self, error: Exception) -> None:
        """Count an error that passes by itself, as that of a full disk: what raised it is tried again."""
        self.errors += 1
        with suppress(Exception):
            logger.debug("vllm-rightsizer's hook %s failed: %s", self.name, shown(error), exc_info=error)


hooks: dict[str, Hook] = {}
"""Every hook of this process by name."""


def hook(name: str) -> Hook:
    """The hook of that name."""
    return hooks.get(name) or Hook(name)


def warn(message: str, *args: Any) -> None:
    """A line in vLLM's log. A filter that somebody put on it may raise, and that is no reason to fail."""
    with suppress(Exception):
        logger.warning(message, *args)


def shown(error: Exception) -> str:
    """The error as text, also where its own `__repr__` is broken."""
    try:
        return repr(error)
    except Exception:
        return type(error).__name__


def wrap(
    owner: Any,
    attribute: str,
    of: Hook,
    *,
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
    around: Callable[[Callable[..., Any], Hook], Callable[..., Any]] | None = None,
) -> None:
    """Replace `owner.attribute`, a function, by one that also calls the plugin's code.

    `before(*args, **kwargs)` may read what the original destroys; its result is the second argument of
    `after(result, noted, *args, **kwargs)`. Neither can change what the caller gets, nor are they called again or
    instead where the original raises. Class and static methods and coroutines stay what they are. If `owner` has no
    such function, the hook is off; if it is wrapped already, nothing happens.

    `around(original, of)`, where every call counts, makes the wrapper itself and keeps these promises itself.
    """
    original = getattr(owner, attribute, None)
    if not callable(original):
        of.switch_off(f"this vLLM has no {getattr(owner, '__name__', owner)}.{attribute}")
        return
    if getattr(original, MARK, False):
        return
    kind = type(_declared(owner, attribute))
    if kind in (classmethod, staticmethod):
        original = _declared(owner, attribute).__func__
    wrapped = _with_observers(original, of, before, after) if around is None else around(original, of)
    setattr(wrapped, MARK, True)
    setattr(owner, attribute, kind(wrapped) if kind in (classmethod, staticmethod) else wrapped)


def _declared(owner: Any, attribute: str) -> Any:
    """What stands in the class's body, or None for what only an object or a module has."""
    return next((vars(one)[attribute] for one in getattr(owner, "__mro__", ()) if attribute in vars(one)), None)


def _with_observers(
    original: Callable[..., Any], of: Hook, before: Callable[..., Any] | None, after: Callable[..., Any] | None
) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            noted = of.run(before, *args, **kwargs) if before is not None else None
            result = await original(*args, **kwargs)
            if after is not None:
                of.run(after, result, noted, *args, **kwargs)
            return result

        return awaited

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        noted = of.run(before, *args, **kwargs) if before is not None else None
        result = original(*args, **kwargs)
        if after is not None:
            of.run(after, result, noted, *args, **kwargs)
        return result

    return wrapped
