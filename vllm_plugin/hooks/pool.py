"""The scheduler's KV cache manager: lookups, admissions, releases."""

from __future__ import annotations

import functools
import inspect
import os
import weakref
from types import ModuleType
from typing import Any, Callable

from vllm_plugin import override, process, releases
from vllm_plugin.elastic import ElasticPool
from vllm_plugin.grouped_pool import GroupedPoolTracker
from vllm_plugin.guard import Hook, hook, shown, wrap
from vllm_plugin.hooks import guarded
from vllm_plugin.imports import watch
from vllm_plugin.layout import PLAIN, layout_of_pool
from vllm_plugin.pool import PoolTracker

ATTRIBUTE = "_vllm_rightsizer"
"""Where a manager carries its tracker: finding it must cost nothing."""

ELASTIC = "_vllm_rightsizer_elastic"
"""Where one whose pool kvcached manages carries what stands for a tracker."""

_ADMISSION = "_vllm_rightsizer_admission"


def tracker_of(manager: Any) -> PoolTracker | None:
    """The tracker of a manager; None for managers built before the hooks."""
    return getattr(manager, ATTRIBUTE, None)


def patch(module: ModuleType) -> None:
    """Wrap `KVCacheManager`."""
    manager = module.KVCacheManager
    if "kv_cache_config" not in inspect.signature(manager.__init__).parameters:
        watch("vllm.v1.executor.abstract", guarded("executor"))
    wrap(manager, "__init__", hook("kv_cache_manager"), after=_built)
    wrap(manager, "get_computed_blocks", hook("lookup"), around=_noting_lookups)
    if hasattr(manager, "get_computed_blocks_for_connector"):
        # 0.32 looks up so where there is a connector; mostly it calls the other one.
        wrap(manager, "get_computed_blocks_for_connector", hook("lookup"), around=_noting_lookups)
    wrap(manager, "free", hook("free"), around=_following_releases)
    wrap(manager, "reset_prefix_cache", hook("reset"), after=_reset)
    if hasattr(manager, "can_fit_full_sequence"):
        # 0.19 to 0.21 ask before they allocate.
        wrap(manager, "can_fit_full_sequence", hook("admission"), after=_asked)
    if hasattr(manager, "pop_blocks_for_free"):
        wrap(manager, "pop_blocks_for_free", hook("free"), before=_before_free, after=_popped)


def _built(_result: Any, _noted: Any, manager: Any, *args: Any, **kwargs: Any) -> None:
    try:
        _track(manager, args, kwargs)
    except Exception as error:
        # An engine builds one manager: this was the only chance, and nobody sees it in a count of errors.
        hook("kv_cache_manager").switch_off(f"the pool of this vLLM cannot be read: {shown(error)}")
        raise


def _track(manager: Any, args: Any, kwargs: Any) -> None:
    if override.kvcached(os.environ):
        setattr(manager, ELASTIC, ElasticPool(manager))
        process.track_pool(getattr(manager, ELASTIC))
        return
    tracker = _tracker(manager, releases.config_of(manager, args, kwargs))
    # Before anything of vLLM's is replaced: what is wrong with a tracker shows here.
    admission = _Admission(manager, tracker, hook("admission"))
    pool = releases.pool_of(manager)
    _follow_hand_outs(pool, tracker)
    _follow_evictions(pool, tracker)
    setattr(manager, ATTRIBUTE, tracker)
    setattr(manager, _ADMISSION, admission)
    process.track_pool(tracker)


def _tracker(manager: Any, config: Any) -> PoolTracker:
    layout = layout_of_pool(config)
    if layout in (None, PLAIN):
        return PoolTracker(manager, int(manager.max_model_len), config)
    return GroupedPoolTracker(manager, int(manager.max_model_len), config, layout)


class _Admission:
    """Watches the one `allocate_slots` call that follows a lookup, and none of those of running requests.

    A lookup puts `watch` into the manager's `__dict__` before the class's method; its first call takes it out again.
    So the steps in between cost nothing.
    """

    def __init__(self, manager: Any, tracker: PoolTracker, of: Hook) -> None:
        self._manager = weakref.ref(manager)
        self._tracker = tracker
        self._block_tokens = tracker.block_tokens
        self._hook = of
        self.request: Any = None
        """Whose allocation is expected next."""
        self.found: Any = None
        """What its lookup found: blocks, and tokens that need not be computed."""
        self.watch = self._watched

    def _watched(self, *args: Any, **kwargs: Any) -> Any:
        manager: Any = self._manager()
        own = vars(manager)
        if own.get("allocate_slots") is self.watch:
            del own["allocate_slots"]
        # Not by the object: another plugin may have put itself before this one meanwhile.
        allocate = type(manager).allocate_slots
        expected, self.request = self.request, None
        request = args[0] if args else kwargs.get("request")
        if request is not expected or not hook("free").active:
            return allocate(manager, *args, **kwargs)
        before = self._hook.run(self._tracker.sought, request, self.found)
        result = allocate(manager, *args, **kwargs)
        if before is not None:
            self._hook.run(self._done, result, request, before, args, kwargs)
        return result

    def _done(self, result: Any, request: Any, before: tuple[int, int], args: Any, kwargs: Any) -> None:
        if result is None:
            self._tracker.refused(request.request_id)
            return
        # What the scheduler finally counts as hit: it may take less than the lookup gave.
        hit_tokens = releases.admitted_hit_tokens(args, kwargs, self._block_tokens, int(self.found[1]))
        self._tracker.admitted(request, *before, hit_tokens=hit_tokens)

    def asked(self, fits: Any, request: Any) -> None:
        """0.19 to 0.21: the scheduler allocates nothing for a request that does not fit."""
        if not fits and request is self.request and hook("free").active:
            self._tracker.sought(request, self.found)
            self._tracker.refused(request.request_id)


def _noting_lookups(original: Callable[..., Any], of: Hook) -> Callable[..., Any]:
    """A waiting request is looked up again each step: what can be left to its admission is, and this is not timed."""

    @functools.wraps(original)
    def get_computed_blocks(manager: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(manager, request, *args, **kwargs)
        if of.active:
            try:
                own = vars(manager)
                admission = own.get(_ADMISSION)
                if admission is not None:
                    admission.request = request
                    admission.found = found
                    if own.setdefault("allocate_slots", admission.watch) is not admission.watch:
                        # Whoever put it there is to be called, and not taken out.
                        of.switch_off("something else has replaced KVCacheManager.allocate_slots on the object")
            except Exception as error:
                of.failed(error)
        return found

    return get_computed_blocks


def _following_releases(original: Callable[..., Any], of: Hook) -> Callable[..., Any]:
    @functools.wraps(original)
    def free(manager: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        tracker: Any = getattr(manager, ATTRIBUTE, None)
        before = None if tracker is None else of.run(tracker.before_free, request)
        result = original(manager, request, *args, **kwargs)
        if before is not None:
            of.run(tracker.freed, request, before)
        return result

    return free


def _asked(fits: Any, _noted: Any, manager: Any, request: Any, *_: Any, **__: Any) -> None:
    admission = getattr(manager, _ADMISSION, None)
    if admission is not None:
        admission.asked(fits, request)


def _before_free(manager: Any, request: Any, *_: Any, **__: Any) -> Any:
    tracker = tracker_of(manager)
    return tracker.before_free(request) if tracker is not None else None


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
    name = releases.hand_out(pool)
    original = getattr(pool, name)
    of = hook("hand_outs")

    def failed(error: Exception) -> None:
        of.failed(error)
        hook("evictions").run(tracker.uncounted)

    @functools.wraps(original)
    def get_new_blocks(*args: Any, **kwargs: Any) -> Any:
        hashless = None
        if of.active:
            try:
                if not tracker.dead_first:
                    hashless = tracker.hashless_among_next(args[0] if args else kwargs["num_blocks"])
            except Exception as error:
                failed(error)
        blocks = original(*args, **kwargs)
        if of.active:
            try:
                tracker.handed_out(len(blocks), hashless)
            except Exception as error:
                failed(error)
        return blocks

    setattr(pool, name, get_new_blocks)


def _follow_evictions(pool: Any, tracker: PoolTracker) -> None:
    """Connectors may drop single blocks from the cache or park them: then the order of free blocks is not known."""
    for name in ("evict_blocks", "unpin_blocks"):
        original = getattr(pool, name, None)
        if original is None:
            continue

        @functools.wraps(original)
        def followed(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            hook("evictions").run(tracker.uncounted)
            return _original(*args, **kwargs)

        setattr(pool, name, followed)
