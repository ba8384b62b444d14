"""The scheduler's KV cache manager: lookups, admissions, releases."""

from __future__ import annotations

import weakref
from types import ModuleType
from typing import Any

from vllm_plugin import process
from vllm_plugin.guard import Hook, hook, wrap
from vllm_plugin.pool import PoolTracker

ATTRIBUTE = "_vllm_rightsizer"
"""Where a manager carries its tracker: finding it must cost nothing."""

_ADMISSION = "_vllm_rightsizer_admission"


def tracker_of(manager: Any) -> PoolTracker | None:
    """The tracker of a manager; None for managers built before the hooks."""
    return getattr(manager, ATTRIBUTE, None)


def patch(module: ModuleType) -> None:
    """Wrap `KVCacheManager`."""
    manager = module.KVCacheManager
    wrap(manager, "__init__", hook("kv_cache_manager"), after=_built)
    wrap(manager, "get_computed_blocks", hook("lookup"), after=_looked_up)
    wrap(manager, "free", hook("free"), before=_before_free, after=_freed)
    wrap(manager, "reset_prefix_cache", hook("reset"), after=_reset)
    if hasattr(manager, "pop_blocks_for_free"):
        wrap(manager, "pop_blocks_for_free", hook("free"), before=_before_free, after=_popped)


def _built(_result: Any, _noted: Any, manager: Any, *args: Any, **kwargs: Any) -> None:
    if not hasattr(manager, "kv_cache_config"):
        manager.kv_cache_config = kwargs.get("kv_cache_config", args[0] if args else None)
    tracker = PoolTracker(manager, int(manager.max_model_len))
    _follow_hand_outs(manager.block_pool, tracker)
    _follow_evictions(manager.block_pool, tracker)
    setattr(manager, ATTRIBUTE, tracker)
    setattr(manager, _ADMISSION, _Admission(manager, tracker, hook("admission")))
    process.track_pool(tracker)


class _Admission:
    """Watches the one `allocate_slots` call that follows a lookup, and none of those of running requests.

    A lookup puts it into the manager's `__dict__` before the class's method; its first call takes it out again. So
    the steps in between cost nothing.
    """

    def __init__(self, manager: Any, tracker: PoolTracker, of: Hook) -> None:
        self._manager = weakref.ref(manager)
        self._tracker = tracker
        self._hook = of
        self._request: Any = None
        self._hit_tokens = 0
        self._looked_up = False

    def expect(self, request: Any, hit_tokens: int, looked_up: bool) -> None:
        """The next allocation should be about this request."""
        if self._hook.active:
            self._request = request
            self._hit_tokens = hit_tokens
            self._looked_up = looked_up
            vars(self._manager())["allocate_slots"] = self._watched

    def _watched(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        manager: Any = self._manager()
        vars(manager).pop("allocate_slots", None)
        expected, self._request = self._request, None
        if request is not expected:
            return manager.allocate_slots(request, *args, **kwargs)
        before = self._hook.run(self._tracker.standing)
        result = manager.allocate_slots(request, *args, **kwargs)
        if before is not None:
            self._hook.run(self._done, result, request, before, args, kwargs)
        return result

    def _done(self, result: Any, request: Any, before: tuple[int, int], args: Any, kwargs: Any) -> None:
        if result is None:
            self._tracker.refused(request.request_id)
            return
        # What the scheduler finally counts as hit: it may take less than the lookup gave.
        hit_tokens = kwargs.get("num_new_computed_tokens", args[1] if len(args) > 1 else self._hit_tokens)
        self._tracker.admitted(request, *before, hit_tokens=int(hit_tokens), looked_up=self._looked_up)


def _looked_up(result: Any, _noted: Any, manager: Any, request: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is None or not hook("free").active:
        return
    blocks, hit_tokens = result[0], int(result[1])
    groups = getattr(blocks, "blocks", blocks)
    tracker.sought(request, groups[0] if groups else ())
    looked_up = tracker.caching and not getattr(request, "skip_reading_prefix_cache", False)
    getattr(manager, _ADMISSION).expect(request, hit_tokens, looked_up)


def _before_free(manager: Any, request: Any, *_: Any, **__: Any) -> Any:
    tracker = tracker_of(manager)
    return tracker.before_free(request) if tracker is not None else None


def _freed(_result: Any, before: Any, manager: Any, request: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and before is not None:
        tracker.freed(request, before)


def _popped(_result: Any, before: Any, manager: Any, request: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and before is not None:
        tracker.popped(request, before)


def _reset(result: Any, _noted: Any, manager: Any, *_: Any, **__: Any) -> None:
    tracker = tracker_of(manager)
    if tracker is not None and result:
        tracker.reset()


def _follow_hand_outs(pool: Any, tracker: PoolTracker) -> None:
    """Called for each batch of blocks handed out, so this wrapper does next to nothing and is not timed."""
    original = pool.get_new_blocks
    of = hook("hand_outs")

    def get_new_blocks(*args: Any, **kwargs: Any) -> Any:
        blocks = original(*args, **kwargs)
        if of.active:
            try:
                tracker.handed_out(len(blocks))
            except Exception as error:
                of.failed(error)
                hook("evictions").run(tracker.uncounted)
        return blocks

    pool.get_new_blocks = get_new_blocks


def _follow_evictions(pool: Any, tracker: PoolTracker) -> None:
    """Connectors may drop single blocks from the cache or park them: then the order of free blocks is not known."""
    for name in ("evict_blocks", "unpin_blocks"):
        original = getattr(pool, name, None)
        if original is None:
            continue

        def followed(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            hook("evictions").run(tracker.uncounted)
            return _original(*args, **kwargs)

        setattr(pool, name, followed)
