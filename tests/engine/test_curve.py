"""One observation of vLLM's real scheduler says what a pool that is too small for its load would hit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vllm_plugin.curve import hits_at

from .harness import BLOCK_TOKENS, Engine, traffic

pytestmark = pytest.mark.engine
Make = Callable[..., Engine]


def test_a_pool_in_which_requests_have_to_wait(engines: Make) -> None:
    """More requests ran at once than the smaller pool can hold: there they run one after the other."""
    prompts = traffic(7, 1200, prefixes=40, output=60)
    tokens = sum(len(prompt.tokens) for prompt in prompts)
    observed = engines(2000, counting=False)
    observed.serve(prompts, clients=24)
    tracker = observed.tracker
    blocks = 360
    engine = engines(blocks, counting=False)
    engine.serve(prompts, clients=24)
    assert engine.tracker.admissions_blocked > 0 == tracker.admissions_blocked
    hits = hits_at(tracker.estimator.histogram.counts, blocks * tracker.block_bytes) * BLOCK_TOKENS
    assert abs(hits - engine.hits) < 0.01 * tokens
