"""Whatever breaks in the plugin, the scheduler decides the same as without it, step by step."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from conformance.faults import (
    FOR_GOOD,
    HOOKS,
    RAISED,
    RAISES,
    RETURNED,
    RETURNS_NOTHING,
    Fault,
    errors,
    fresh,
    functions,
    injected,
    without_the_plugin,
    wrapped_functions,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_plugin import guard, process
from vllm_plugin.hooks import PATCHES

from .harness import Engine, Prompt, traffic

pytestmark = pytest.mark.engine
Make = Callable[..., Engine]

MEASURING = (
    *("pool", "tracker", "backlog", "estimator", "parting", "sampling", "crowding", "stack", "histogram", "peaks"),
    *("curve", "geometry", "process", "override"),
)
"""Modules of which any function may break while vLLM runs. The hooks themselves break in the release tests, too."""
BLOCKS = 258
"""What one longest request needs, and so little that requests wait, and lose their blocks."""


@pytest.fixture(autouse=True)
def fresh_hooks(monkeypatch: pytest.MonkeyPatch, engines: Make) -> None:
    """Each test counts its own errors, and what it switches off is on for the next one."""
    assert engines
    for hook in list(guard.hooks.values()):
        monkeypatch.setattr(hook, "active", True)
        monkeypatch.setattr(hook, "errors", 0)
        monkeypatch.setattr(hook, "_strain", 0.0)


def decisions(make: Make, prompts: Sequence[Prompt]) -> list[Any]:
    """All that the scheduler decides, step by step: who runs, with how many tokens, in which blocks; who must go."""
    engine = make(BLOCKS, counting=False)
    steps: list[Any] = []
    schedule = engine.scheduler.schedule

    def noted() -> Any:
        output = schedule()
        cached = output.scheduled_cached_reqs
        steps.append(
            (
                dict(output.num_scheduled_tokens),
                [(new.req_id, new.block_ids, new.num_computed_tokens) for new in output.scheduled_new_reqs],
                (list(cached.req_ids), list(cached.new_block_ids), list(cached.num_computed_tokens)),
                sorted(output.finished_req_ids),
                sorted(output.preempted_req_ids or ()),
            )
        )
        return output

    engine.scheduler.schedule = noted
    for number, _ in enumerate(engine.run(prompts, 20)):
        if number % 10 == 0 and hasattr(engine.pool, "evict_blocks"):
            # As a connector does, though no block.
            engine.pool.evict_blocks(set())
        if number % 50 == 0:
            look()
    steps.append((engine.queries, engine.hits, engine.preemptions, engine.scheduler.reset_prefix_cache()))
    return steps


def look() -> None:
    """What the exporter's thread does beside vLLM's once a second, here after the same steps each time."""
    try:
        process.current().report()
    except Exception as error:
        guard.hook("exporter").count(error)


PROMPTS = traffic(8, 36, output=60)


@pytest.fixture(scope="module")
def reference(engines: Make) -> list[Any]:
    with without_the_plugin():
        found = decisions(engines, PROMPTS)
    assert any(step[4] for step in found[:-1]), "this traffic should preempt"
    return found


def test_the_reference_is_vllm_alone(engines: Make, reference: list[Any]) -> None:
    assert len(wrapped_functions()) >= 5
    with without_the_plugin():
        assert engines(BLOCKS).tracker is None
    assert decisions(engines, PROMPTS) == reference
    assert errors() == 0


# --- Random faults ----------------------------------------------------------------------------------------------------


BREAKABLE = functions([*MEASURING, *HOOKS])
FAULTS = st.builds(
    Fault,
    st.sampled_from(BREAKABLE),
    st.integers(0, len(RAISED) + len(RETURNED) - 1),
    st.integers(0, 60),
    st.sampled_from([1, 3, FOR_GOOD]),
)


@settings(max_examples=60)
@given(st.lists(FAULTS, min_size=1, max_size=3, unique_by=lambda fault: fault.function))
def test_random_faults_change_no_decision(engines: Make, reference: list[Any], faults: list[Fault]) -> None:
    fresh()
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(injected(fault)) for fault in faults]
        assert decisions(engines, PROMPTS) == reference
        raised = [fault.function for fault, of in zip(faults, calls, strict=True) if of.struck and fault.raises]
    assert errors() > 0 or not raised, raised


@pytest.mark.parametrize("outcome", [RAISES, RETURNS_NOTHING], ids=["raises", "returns nothing"])
def test_each_function_may_break_for_good(engines: Make, reference: list[Any], outcome: int) -> None:
    """Not left to chance: every one of them, from its first call on."""
    struck_at_all = 0
    for function in BREAKABLE:
        fresh()
        with injected(Fault(function, outcome)) as of:
            assert decisions(engines, PROMPTS) == reference, function
        assert errors() > 0 or not of.struck or outcome == RETURNS_NOTHING, function
        struck_at_all += bool(of.struck)
    assert struck_at_all > 30


# --- vLLM's own errors, and what it sees of its functions -------------------------------------------------------------


class OutOfBlocksError(Exception):
    """vLLM's own."""


@pytest.mark.parametrize("error", [OutOfBlocksError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("place", ["get_cached_block", "get_new_blocks", "free_blocks"])
def test_vllms_own_errors_pass_as_they_are(engines: Make, place: str, error: type[BaseException]) -> None:
    """From below a lookup, a hand-out and a release, each under one of our wrappers."""
    from vllm.v1.core.block_pool import BlockPool

    original, calls = getattr(BlockPool, place), iter(range(10**9))
    instance = error("vLLM's own words")

    def fails(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 20:
            raise instance
        return original(*args, **kwargs)

    with patch.object(BlockPool, place, fails), pytest.raises(error) as caught:
        decisions(engines, PROMPTS)
    assert caught.value is instance
    assert instance.__cause__ is None
    assert instance.__context__ is None
    assert traceback.extract_tb(instance.__traceback__)[-1].name == "fails"
    assert errors() == 0


def test_functions_look_as_they_did() -> None:
    """Signature, name, documentation and the way to pickle them."""
    for module in PATCHES:
        # Some are those of other releases.
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    found = wrapped_functions()
    assert {owner.__name__.rpartition(".")[2] for owner, _, _ in found} >= {
        "EngineArgs",
        "KVCacheManager",
        "Scheduler",
        "WorkerBase",
        "base_loader",
        "Platform",
    }
    for owner, name, wrapped in found:
        original = wrapped.__wrapped__
        assert inspect.signature(wrapped) == inspect.signature(original)
        assert (wrapped.__name__, wrapped.__qualname__, wrapped.__module__) == (
            (original.__name__, original.__qualname__, original.__module__)
        )
        assert wrapped.__doc__ == original.__doc__
        if owner.__name__ != wrapped.__module__ and inspect.ismodule(owner):
            # A function of another module that this one has imported: by name, the original is found there.
            continue
        assert pickle.loads(pickle.dumps(getattr(owner, name))) == getattr(owner, name)


@pytest.mark.parametrize("when", ["before the first lookup", "between a lookup and its allocation"])
def test_who_else_wraps_the_managers_functions_is_called_each_time(
    engines: Make, reference: list[Any], when: str
) -> None:
    """Another plugin that replaces a function on the object, as ours does."""
    calls = []

    def make(blocks: int, **arguments: Any) -> Engine:
        engine = engines(blocks, **arguments)
        manager = engine.scheduler.kv_cache_manager

        def replace() -> None:
            inner = manager.allocate_slots

            def theirs(*args: Any, **kwargs: Any) -> Any:
                calls.append("theirs")
                return inner(*args, **kwargs)

            manager.allocate_slots = theirs

        if when == "before the first lookup":
            replace()
        else:
            lookup = manager.get_computed_blocks

            def looked_up(*args: Any, **kwargs: Any) -> Any:
                result = lookup(*args, **kwargs)
                del manager.get_computed_blocks
                replace()
                return result

            manager.get_computed_blocks = looked_up
        return engine

    from vllm.v1.core.kv_cache_manager import KVCacheManager

    allocate, all_calls = KVCacheManager.allocate_slots, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        all_calls.append("vLLM's")
        return allocate(*args, **kwargs)

    with patch.object(KVCacheManager, "allocate_slots", counted):
        assert decisions(make, PROMPTS) == reference
    assert len(calls) == len(all_calls) > 100
