"""What stands between the plugin's own code and vLLM's: errors are swallowed and counted, and repeated ones end it."""

from __future__ import annotations

import functools
import logging
import time
from typing import Any, Callable

logger = logging.getLogger("vllm.rightsizer")
"""Below vLLM's own logger, hence in its format and at its level."""

_TOO_MANY = 5
_FORGIVEN_BY_SUCCESS = 0.1


class Hook:
    """One place where vLLM is hooked, with its cost and health.

    Five failures switch it off; each ten successes in between make up for one.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.active = True
        self.errors = 0
        self.seconds = 0.0
        self._strain = 0.0
        hooks[name] = self

    def run(self, observe: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the plugin's own code and count its time; None if it failed or the hook is off."""
        if not self.active:
            return None
        start = time.perf_counter()
        try:
            result = observe(*args, **kwargs)
            if self._strain:
                self._strain = max(self._strain - _FORGIVEN_BY_SUCCESS, 0.0)
            return result
        except Exception as error:
            self.failed(error)
            return None
        finally:
            self.seconds += time.perf_counter() - start

    def switch_off(self, why: str) -> None:
        """From now on only vLLM's own code runs here."""
        if self.active:
            self.active = False
            logger.warning("vllm-rightsizer's hook %s is off: %s. vLLM itself is not affected.", self.name, why)

    def failed(self, error: Exception) -> None:
        """The plugin's own code raised this: count it. For callers that cannot afford `run`."""
        self.errors += 1
        self._strain += 1
        logger.debug("vllm-rightsizer's hook %s failed", self.name, exc_info=True)
        if self._strain >= _TOO_MANY:
            self.switch_off(f"{self.errors} errors, the last one {error!r}")


hooks: dict[str, Hook] = {}
"""Every hook of this process by name."""


def hook(name: str) -> Hook:
    """The hook of that name."""
    return hooks.get(name) or Hook(name)


def wrap(
    owner: Any,
    attribute: str,
    of: Hook,
    *,
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
) -> None:
    """Replace `owner.attribute`, a function, by one that also calls the plugin's code.

    `before(*args, **kwargs)` may read what the original destroys; its result is the second argument of
    `after(result, noted, *args, **kwargs)`. Neither can change what the caller gets. If `owner` has no such
    attribute, the hook is off; if it is wrapped already, nothing happens.
    """
    original = getattr(owner, attribute, None)
    if original is None:
        of.switch_off(f"this vLLM has no {getattr(owner, '__name__', owner)}.{attribute}")
        return
    if getattr(original, "_vllm_rightsizer", False):
        return

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        noted = of.run(before, *args, **kwargs) if before is not None else None
        result = original(*args, **kwargs)
        if after is not None:
            of.run(after, result, noted, *args, **kwargs)
        return result

    wrapped._vllm_rightsizer = True  # type: ignore[attr-defined]
    setattr(owner, attribute, wrapped)
