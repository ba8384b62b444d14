"""KV that comes from elsewhere, or is sent there: vLLM's own scheduler with a connector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vllm_plugin.guard import hooks

from .harness import BLOCK_TOKENS, Engine, Prompt, traffic

pytestmark = pytest.mark.engine

Make = Callable[..., Engine]

TRANSFER = {
    "kv_connector": "Carrier",
    "kv_connector_module_path": "tests.engine.connectors",
    "kv_role": "kv_both",
}


BLOCKS = 600


@pytest.fixture
def engine(engines: Make) -> Engine:
    return engines(BLOCKS, kv_transfer_config=TRANSFER, disable_hybrid_kv_cache_manager=True)


def cold(number: int, blocks: int) -> Prompt:
    """A prompt that no other one begins like, a little shorter than so many blocks."""
    start = 10_000 * number
    return Prompt(tuple(range(start, start + blocks * BLOCK_TOKENS - 8)), 2)


def sent(engine: Engine, names: set[str]) -> None:
    """The worker says that these requests' blocks have arrived where they should."""
    from vllm.v1.outputs import KVConnectorOutput

    engine.scheduler._update_from_kv_xfer_finished(KVConnectorOutput(finished_sending=names))


def run_to_the_end(engine: Engine) -> None:
    while engine.scheduler.get_num_unfinished_requests():
        engine.step()


def test_blocks_are_held_past_the_end_of_their_request(engine: Engine) -> None:
    name = engine.add(cold(1, 11))
    run_to_the_end(engine)
    held, _ = engine.scan()
    assert held == 11
    report: dict[str, Any] = engine.tracker.report()
    assert report["active_bytes"] == held * engine.tracker.block_bytes == report["active_peak_bytes"]
    sent(engine, {name})
    assert engine.scan() == (0, 10)
    assert (engine.tracker.active_and_free()[0], engine.tracker.reusable()) == (0, 10)


def test_what_comes_from_elsewhere_is_no_hit_of_the_pool(engine: Engine, engines: Make) -> None:
    prompts = traffic(3, 150)
    for prompt in prompts:
        name = engine.add(prompt)
        run_to_the_end(engine)
        sent(engine, {name})
        assert (engine.tracker.active_and_free()[0], engine.tracker.reusable()) == engine.scan()
    without = engines(BLOCKS)
    without.serve(prompts, clients=1)
    report: dict[str, Any] = engine.tracker.report()
    assert (report["lookup_tokens"], report["hit_tokens"]) == (engine.queries, engine.hits)
    assert engine.queries == sum(len(prompt.tokens) for prompt in prompts)
    # The pool gives what it gives without the connector, which brings more.
    assert engine.hits == without.hits > 0
    assert sum(report["reuse_counts"]) == sum(without.tracker.report()["reuse_counts"])


def counted_errors() -> dict[str, int]:
    return {name: one.errors for name, one in hooks.items() if one.errors}


@pytest.mark.parametrize("window", [0, 8 * BLOCK_TOKENS], ids=["full attention", "windows"])
def test_what_may_still_be_written_goes_back_later(engines: Make, window: int) -> None:
    """Requests that end or are preempted while a step is under way: their blocks wait for it."""
    engine = engines(270 if window else 420, asynchronous=True, window=window)
    # As vLLM itself says where a connector loads into blocks beside its own steps.
    engine.scheduler.defer_block_free = True
    before = counted_errors()
    tracker = engine.tracker
    waited = 0
    for _ in engine.run(traffic(1, 300, output=120), 60 if window else 24, ahead=1):
        waited = max(waited, len(engine.scheduler.deferred_frees))
    assert waited
    assert engine.preemptions
    assert tracker.preemptions == engine.preemptions
    assert (tracker.lookup_tokens, tracker.hit_tokens) == (engine.queries, engine.hits)
    assert (tracker.active_and_free()[0], tracker.reusable()) == engine.scan()
    kept = (tracker._waited, tracker._preempted, tracker.estimator._held, getattr(tracker, "_hit_blocks", {}))
    assert [len(one) for one in kept] == [0, 0, 0, 0]
    assert counted_errors() == before


def test_what_is_being_sent_takes_room_from_others(engine: Engine) -> None:
    first = engine.add(cold(1, 200))
    run_to_the_end(engine)
    others = [engine.add(cold(number, 250)) for number in (2, 3)]
    for _ in range(20):
        engine.step()
    assert engine.scheduler.get_num_unfinished_requests() == 1
    report: dict[str, Any] = engine.tracker.report()
    assert report["admissions_blocked"] == 1
    assert report["demand_peak_bytes"] == (200 + 250 + 250) * engine.tracker.block_bytes
    sent(engine, {first, others[0]})
    run_to_the_end(engine)
    sent(engine, {others[1]})
    assert engine.tracker.active_and_free()[0] == 0 == engine.scan()[0]
