"""V0's block manager (vLLM up to 0.10): admissions, releases."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from vllm_plugin.block_manager import BlockManagerTracker
from vllm_plugin.guard import hook, wrap

ATTRIBUTE = "_vllm_rightsizer"
"""Where a manager carries its tracker: finding it must cost nothing."""


def tracker_of(manager: Any) -> BlockManagerTracker | None:
    """The tracker of a manager; None before its engine is built."""
    return getattr(manager, ATTRIBUTE, None)


def patch(module: ModuleType) -> None:
    """Wrap `SelfAttnBlockSpaceManager`."""
    manager = module.SelfAttnBlockSpaceManager
    wrap(manager, "can_allocate", hook("lookup"), after=_sought)
    wrap(manager, "allocate", hook("admission"), before=_before_allocate, after=_allocated)
    wrap(manager, "free", hook("free"), before=_before_free, after=_freed)
    wrap(manager, "reset_prefix_cache", hook("reset"), after=_reset)


def _sought(result: Any, _noted: Any, manager: Any, group: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and hook("free").active:
        tracker.sought(manager, group, refused=result.name == "LATER")


def _before_allocate(manager: Any, *_: Any, **__: Any) -> Any:
    tracker = tracker_of(manager)
    return tracker.standing() if tracker is not None and hook("free").active else None


def _allocated(_result: Any, before: Any, manager: Any, group: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and before is not None:
        tracker.admitted(manager, group, before)


def _before_free(manager: Any, sequence: Any, *_: Any, **__: Any) -> Any:
    tracker = tracker_of(manager)
    return tracker.before_free(manager, sequence) if tracker is not None else None


def _freed(_result: Any, before: Any, manager: Any, sequence: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and before is not None:
        tracker.freed(sequence, before)


def _reset(result: Any, _noted: Any, manager: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and result:
        tracker.reset()
