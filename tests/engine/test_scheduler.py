"""The plugin on vLLM's real scheduler and KV cache manager: its figures are theirs, to the block and the token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from vllm_plugin.curve import hits_at
from vllm_plugin.guard import hook

from .harness import BLOCK_TOKENS, LAYERS, Engine, Prompt, traffic

pytestmark = pytest.mark.engine
Make = Callable[..., Engine]


@pytest.mark.parametrize(
    ("blocks", "clients", "ahead"),
    [(1200, 12, 0), (420, 24, 0), (420, 24, 1)],
    ids=["roomy", "short of blocks", "short of blocks, scheduling ahead"],
)
def test_blocks_and_tokens_are_vllms_own_at_every_step(engines: Make, blocks: int, clients: int, ahead: int) -> None:
    engine = engines(blocks, asynchronous=bool(ahead))
    tracker = engine.tracker
    steps = 0
    for _ in engine.run(traffic(1, 700, output=120), clients, ahead):
        assert (tracker.active_and_free()[0], tracker.reusable()) == engine.scan()
        steps += 1
    assert steps > 500
    assert (tracker.lookup_tokens, tracker.hit_tokens) == (engine.queries, engine.hits)
    assert tracker.preemptions == engine.preemptions
    assert (engine.preemptions > 0) == (blocks == 420)
    assert tracker.requests == 700
    report = tracker.report()
    # Between two scans a step may fill the pool and preempt, which only the plugin sees.
    peak = engine.most_active if blocks == 1200 else blocks - 1
    assert report["active_peak_bytes"] == peak * tracker.block_bytes
    assert sum(report["reuse_counts"]) <= tracker.lookup_tokens // BLOCK_TOKENS
    assert not tracker.estimator._held


def test_every_full_block_looked_up_is_counted_once(engines: Make) -> None:
    engine = engines(420)
    prompts = traffic(2, 300)
    engine.serve(prompts, clients=24)
    looked_up = sum((len(prompt.tokens) - 1) // BLOCK_TOKENS for prompt in prompts)
    assert engine.tracker.estimator.histogram.total == looked_up


def test_bytes(engines: Make) -> None:
    engine = engines(100, max_model_len=1000)
    report = engine.tracker.report()
    assert report["block_bytes"] == engine.page_bytes * LAYERS
    assert report["capacity_bytes"] == 100 * engine.page_bytes * LAYERS
    assert report["capacity_bytes"] == max(tensor.size for tensor in engine.config.kv_cache_tensors)
    assert report["block_tokens"] == BLOCK_TOKENS


def test_vllm_starts_at_the_floor_and_not_below(engines: Make) -> None:
    engine = engines(100, max_model_len=1000)
    floor = engine.tracker.report()["floor_bytes"] // engine.tracker.block_bytes
    assert engines(floor, max_model_len=1000).config.num_blocks == floor
    with pytest.raises(ValueError, match="max seq len"):
        engines(floor - 1, max_model_len=1000)


def test_requests_that_had_to_wait_for_blocks(engines: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.core.kv_cache_manager import KVCacheManager

    refused = set()
    allocate = KVCacheManager.allocate_slots

    def watched(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        result = allocate(self, request, *args, **kwargs)
        if result is None and request.status.name in ("WAITING", "PREEMPTED"):
            refused.add((request.request_id, request.num_preemptions))
        return result

    monkeypatch.setattr(KVCacheManager, "allocate_slots", watched)
    engine = engines(300)
    engine.serve(traffic(3, 200), clients=24)
    assert engine.tracker.admissions_blocked == len(refused) > 0


def test_demand_is_what_is_active_and_what_the_next_request_needs(engines: Make) -> None:
    engine = engines(100, max_model_len=1500)
    shared = tuple(range(3, 3 + 10 * BLOCK_TOKENS))
    engine.add(Prompt(shared + tuple(range(500, 500 + 40 * BLOCK_TOKENS)), 1000))
    engine.step()
    active = engine.tracker.active_and_free()[0]
    engine.add(Prompt(shared + tuple(range(1200, 1200 + 60 * BLOCK_TOKENS)), 5))
    engine.step()
    # It waits: of its 70 blocks the first ten are held by the other request, and 60 are not there.
    assert len(engine.scheduler.running) == 1
    demand = engine.tracker.report()["demand_peak_bytes"] // engine.tracker.block_bytes
    assert demand == engine.scan()[0] + 60
    assert demand > 99 > active
    assert engine.tracker.admissions_blocked == 1


def test_a_reset_cache_is_empty(engines: Make) -> None:
    engine = engines(600)
    prompts = traffic(4, 100)
    engine.serve(prompts, clients=8)
    assert engine.tracker.reusable() > 0
    assert engine.scheduler.reset_prefix_cache()
    assert engine.tracker.reusable() == 0 == engine.scan()[1]
    seen = sum(engine.tracker.estimator.histogram.counts[:-1])
    engine.serve([prompts[0]], clients=1)
    assert sum(engine.tracker.estimator.histogram.counts[:-1]) == seen
    for _ in engine.run(traffic(5, 100), clients=8):
        assert engine.tracker.reusable() == engine.scan()[1]


@pytest.mark.parametrize("window", [8, 24])
def test_windows_beside_full_attention_have_a_curve_too(engines: Make, window: int) -> None:
    """Three of four groups keep a window only. Observed at one size, compared with vLLM at half and twice of it."""
    prompts = traffic(7, 1000, prefixes=100)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    real, errors = {}, {}
    observed, *others = (engines(size, window=window * BLOCK_TOKENS, counting=False) for size in (1600, 800, 3200))
    for blocks, engine in zip((1600, 800, 3200), (observed, *others), strict=True):
        engine.serve(prompts, clients=6)
        assert len(engine.config.kv_cache_groups) == 4
        real[blocks] = 100 * engine.hits / tokens
        curve = observed.tracker.estimator.histogram.counts
        hits = hits_at(curve, engine.tracker.blocks * engine.tracker.block_bytes) * BLOCK_TOKENS
        errors[blocks] = 100 * hits / tokens - real[blocks]
    assert max(real.values()) - min(real.values()) > 8
    assert max(map(abs, errors.values())) < 3, (real, errors)
    report = observed.tracker.report()
    assert (report["lookup_tokens"], report["hit_tokens"]) == (observed.queries, observed.hits)
    assert 0 < report["active_peak_bytes"] <= report["demand_peak_bytes"]
    assert (observed.tracker.active_and_free()[0], observed.tracker.reusable()) == observed.scan()
    assert not observed.tracker.estimator._held
    assert not observed.tracker.estimator._windows._running


def test_requests_that_are_given_up(engines: Make) -> None:
    from vllm.v1.request import RequestStatus

    engine = engines(300)
    names = [engine.add(prompt) for prompt in traffic(6, 60)]
    for step in range(200):
        engine.step()
        if step % 3 == 0 and names:
            engine.scheduler.finish_requests(names.pop(step % len(names)), RequestStatus.FINISHED_ABORTED)
        assert (engine.tracker.active_and_free()[0], engine.tracker.reusable()) == engine.scan()
    assert engine.tracker.active_and_free()[0] == 0
    assert not engine.tracker.estimator._held
    assert not engine.tracker._waited


def test_one_observation_tells_the_hit_rate_of_other_pools(engines: Make) -> None:
    """Observed at one size, compared with vLLM itself run at each of six."""
    prompts = traffic(7, 2500, prefixes=150)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    observed = engines(1600, counting=False)
    observed.serve(prompts, clients=6)
    tracker = observed.tracker
    real, errors = {}, {}
    for blocks in (500, 800, 1200, 1600, 2400, 4000):
        engine = engines(blocks, counting=False)
        engine.serve(prompts, clients=6)
        assert engine.preemptions == 0
        real[blocks] = 100 * engine.hits / tokens
        hits = hits_at(tracker.estimator.histogram.counts, blocks * tracker.block_bytes) * BLOCK_TOKENS
        errors[blocks] = 100 * hits / tokens - real[blocks]
    assert max(real.values()) - min(real.values()) > 15
    assert max(map(abs, errors.values())) < 1, (real, errors)
    assert sum(map(abs, errors.values())) / len(errors) < 0.5, (real, errors)


def evicting(engine: Engine, prompts: Sequence[Prompt]) -> int:
    """Serve, and evict as a connector does, though no block; says how many steps it took."""
    steps = 0
    for _ in engine.run(prompts, 16):
        if hasattr(engine.pool, "evict_blocks"):
            engine.pool.evict_blocks(set())
        steps += 1
    return steps


@pytest.mark.parametrize(
    "broken",
    ["sought", "admitted", "before_free", "freed", "active_and_free", "handed_out", "uncounted"],
)
def test_whatever_breaks_in_the_plugin_vllm_does_the_same(
    engines: Make, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_plugin.pool import PoolTracker

    prompts = traffic(8, 120)
    sound = engines(420)
    sound_steps = evicting(sound, prompts)

    def fail(*_: Any, **__: Any) -> None:
        raise AttributeError("gone in this vLLM")

    hooks = [hook(name) for name in ("lookup", "admission", "free", "hand_outs", "evictions")]
    before = [(one.errors, one.active) for one in hooks]
    monkeypatch.setattr(PoolTracker, broken, fail)
    engine = engines(420)
    steps = evicting(engine, prompts)
    errors = sum(one.errors for one in hooks) - sum(errors for errors, _ in before)
    switched_off = [one.name for one in hooks if not one.active]
    for one, (_, active) in zip(hooks, before, strict=True):
        one.active, one._strain = active, 0.0
    assert (steps, engine.hits, engine.queries) == (sound_steps, sound.hits, sound.queries)
    if broken != "active_and_free":
        assert 0 < errors <= 10
        assert switched_off
