"""The plugin on this release's own scheduler and block pool or block manager: its figures are theirs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import engines
import pytest
from engines import BLOCK_BYTES, BLOCK_TOKENS, MAX_MODEL_LEN, Prompt, traffic

from vllm_plugin.curve import hits_at
from vllm_plugin.guard import hooks

HAS_V0 = engines.has("vllm.core.block_manager")
KINDS = [engines.V1, engines.V0] if HAS_V0 else [engines.V1]

pytestmark = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def one_configuration_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """V1's choice of itself asks for a device that it likes; its scheduler does not."""
    if HAS_V0:
        monkeypatch.setenv("VLLM_USE_V1", "0")


@pytest.mark.parametrize(("blocks", "clients"), [(400, 8), (110, 16)], ids=["roomy", "short of blocks"])
def test_blocks_and_tokens_at_every_step(kind: Any, model: Path, blocks: int, clients: int) -> None:
    engine = kind(model, blocks)
    tracker = engine.tracker
    prompts = traffic(1, 160, output=80)
    steps = 0
    for _ in engine.run(prompts, clients):
        assert (tracker.active_and_free()[0], tracker.reusable()) == engine.scan()
        steps += 1
    assert steps > 200
    assert tracker.preemptions == engine.preemptions
    short = blocks == 110
    assert (engine.preemptions > 0, tracker.admissions_blocked > 0) == (short, short)
    assert tracker.requests == len(prompts)
    assert tracker.lookup_tokens == sum(len(prompt.tokens) for prompt in prompts)
    assert tracker.hit_tokens == engine.hit_tokens > 0
    report = tracker.report()
    assert report["active_peak_bytes"] >= engine.most_active * BLOCK_BYTES
    assert report["demand_peak_bytes"] >= report["active_peak_bytes"]
    assert not tracker.estimator._held
    assert not tracker._waited


def test_the_same_hits_as_vllms_own_counters(kind: Any, model: Path) -> None:
    """One request at a time: no release then looks up twice, and V0 computes each block before the next lookup."""
    engine = kind(model, 250)
    prompts = traffic(2, 120)
    for _ in engine.run(prompts, 1):
        pass
    tracker = engine.tracker
    assert tracker.estimator.histogram.total == sum(full_blocks(prompt, kind) for prompt in prompts)
    queries, hits = counted_by_vllm(engine)
    if queries:
        tokens = (tracker.lookup_tokens, tracker.hit_tokens)
        # In blocks until 0.8, with or without one that ends the prompt.
        in_blocks = [sum(full_blocks(prompt, which) for prompt in prompts) for which in (engines.V0, engines.V1)]
        assert (queries, hits) in [tokens, *((blocks, tracker.hit_tokens // BLOCK_TOKENS) for blocks in in_blocks)]


def full_blocks(prompt: Prompt, kind: Any) -> int:
    """Blocks that a lookup can hit; V1 computes at least the last token anew, and its block."""
    return (len(prompt.tokens) - (kind is engines.V1)) // BLOCK_TOKENS


def counted_by_vllm(engine: Any) -> tuple[int, int]:
    """Queries and hits; none before 0.7.3."""
    if isinstance(engine, engines.V1):
        return engine.queries, engine.hits
    data = engine.allocator.metric_data
    hits = data.num_incompleted_block_hit + data.completed_block_cache_hit_rate * data.num_completed_blocks * 1000
    return data.num_incompleted_block_queries + data.num_completed_blocks * 1000, round(hits)


def test_the_curve_says_what_this_pool_hit_and_what_others_do(kind: Any, model: Path) -> None:
    prompts = traffic(3, 320)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    observed = kind(model, 260)
    for _ in observed.run(prompts, 4):
        pass
    counts = list(observed.tracker.estimator.histogram.counts)
    real, errors = [], []
    for blocks in (160, 260, 420):
        engine = observed if blocks == 260 else kind(model, blocks)
        if engine is not observed:
            for _ in engine.run(prompts, 4):
                pass
        real.append(100 * engine.tracker.hit_tokens / tokens)
        errors.append(100 * BLOCK_TOKENS * hits_at(counts, blocks * BLOCK_BYTES) / tokens - real[-1])
    assert max(real) - min(real) > 8
    assert max(map(abs, errors)) < 1, (real, errors)


def test_bytes_and_the_floor(kind: Any, model: Path) -> None:
    report = kind(model, 100).tracker.report()
    assert report["block_bytes"] == BLOCK_BYTES
    assert report["block_tokens"] == BLOCK_TOKENS
    assert report["capacity_bytes"] == 100 * BLOCK_BYTES
    null = 1 if kind is engines.V1 and engines.has_null_block() else 0
    assert report["floor_bytes"] == (MAX_MODEL_LEN // BLOCK_TOKENS + null) * BLOCK_BYTES
    assert report["engine_version"] == kind.__name__


def test_a_reset_cache_is_empty(kind: Any, model: Path) -> None:
    engine = kind(model, 300)
    prompts = traffic(4, 60)
    for _ in engine.run(prompts, 4):
        pass
    assert engine.tracker.reusable() > 0
    assert engine.manager.reset_prefix_cache()
    assert engine.tracker.reusable() == 0 == engine.scan()[1]
    for _ in engine.run(traffic(5, 60), 4):
        assert engine.tracker.reusable() == engine.scan()[1]


def test_without_a_prefix_cache(kind: Any, model: Path) -> None:
    engine = kind(model, 300, enable_prefix_caching=False)
    prompts = traffic(6, 60)
    for _ in engine.run(prompts, 4):
        assert engine.tracker.active_and_free()[0] == engine.scan()[0]
        assert engine.tracker.reusable() == 0
    report = engine.tracker.report()
    assert (report["requests"], report["hit_tokens"]) == (60, 0)
    assert report["lookup_tokens"] == sum(len(prompt.tokens) for prompt in prompts)


def test_the_override_sets_the_arguments(kind: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.engine.arg_utils import EngineArgs

    monkeypatch.setenv("VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION", "0.4321")
    takes_bytes = "kv_cache_memory_bytes" in inspect.signature(EngineArgs).parameters
    if takes_bytes:
        monkeypatch.setenv("VLLM_RIGHTSIZER_KV_BYTES", str(120 * BLOCK_BYTES))
    engine = kind(model, 120, gpu_memory_utilization=0.9)
    cache = engine.vllm_config.cache_config
    assert cache.gpu_memory_utilization == 0.4321
    assert not takes_bytes or cache.kv_cache_memory_bytes == 120 * BLOCK_BYTES
    monkeypatch.delenv("VLLM_RIGHTSIZER_OUTCOME")


def test_every_hook_is_there_and_none_failed(kind: Any, model: Path, record_property: Any) -> None:
    for _ in kind(model, 110).run(traffic(7, 60), 16):
        pass
    record_property(f"hooks {kind.__name__}", " ".join(sorted(name for name, hook in hooks.items() if hook.active)))
    assert not [name for name, hook in hooks.items() if not hook.active]
    assert not [name for name, hook in hooks.items() if hook.errors]
