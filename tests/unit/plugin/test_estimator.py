"""The estimator against a naive model of vLLM's pool: its curve is what the pool would really have hit."""

from __future__ import annotations

import random
import tracemalloc
from collections import OrderedDict
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_plugin.curve import hits_at
from vllm_plugin.estimator import ReuseEstimator
from vllm_plugin.sampling import position, sampled

from .replay import Job, Replay, chain
from .traffic import mixed_traffic, play, scripts


@settings(max_examples=80, deadline=None)
@given(scripts(), st.sampled_from([31, 63]))
def test_short_chains_are_exact_at_the_observed_size_and_nearly_elsewhere(
    script: list[tuple[Job, int]], observed: int
) -> None:
    replay = Replay([31, 63, 127], observed)
    play(replay, script)
    assert replay.estimator.histogram.total == replay.blocks
    assert_sound(replay.estimator)
    for size, pool in replay.pools.items():
        if replay.peak <= size < 4 * observed:
            # Other sizes reuse dead blocks at other moments, which moves a distance by one now and then.
            assert abs(replay.predicted(size) - pool.hit_blocks) <= (0 if size == observed else 0.02 * replay.blocks)


def assert_sound(estimator: ReuseEstimator) -> None:
    """Samples stand for what requests hold, each as often as it is held, or for blocks that are in the stack."""
    held: dict[Hashable, int] = {}
    for keys in estimator._held.values():
        for key in keys:
            held[key] = held.get(key, 0) + 1
    events = {*estimator._stack._tidied, *estimator._stack._order}
    for key, owner in estimator._table.items():
        if isinstance(owner, int):
            assert owner == held.pop(key)
        else:
            assert owner in events
            assert key in owner.keys
            assert owner.start < owner.end
    assert not held
    # Nothing is kept alive that stands for nothing, but for what two chains end with.
    kept = sum(len(event.keys) for event in events)
    standing = sum(not isinstance(owner, int) for owner in estimator._table.values())
    assert standing <= kept <= standing + len(events) // 4
    assert estimator._stack.total == sum(event.end - event.start for event in events)


@pytest.mark.parametrize(("longest", "observed"), [(30, 511), (120, 1023)])
@pytest.mark.parametrize("cut", [0.0, 0.4])
def test_long_chains_are_right_but_for_branches_between_samples(longest: int, observed: int, cut: float) -> None:
    sizes = [size for size in (255, 511, 1023, 2047) if size >= 4 * (longest + 3)]
    replay = Replay(sizes, observed)
    play(replay, mixed_traffic(seed=longest, requests=400, longest=longest, cut=cut))
    assert replay.estimator.histogram.total == replay.blocks
    assert_sound(replay.estimator)
    for size, pool in replay.pools.items():
        error = abs(replay.predicted(size) - pool.hit_blocks) / replay.blocks * 100
        assert error <= (0.2 if size == observed else 0.6), size


def test_a_wrong_order_of_releases_would_be_seen() -> None:
    """The check above can fail."""
    replay = Replay([255, 511], 511)
    script = mixed_traffic(seed=1, requests=800, longest=60, cut=0.4)
    replay.estimator._stack.depth = lambda *_: 1
    play(replay, script)
    assert abs(replay.predicted(255) - replay.pools[255].hit_blocks) > 0.05 * replay.blocks


def new_estimator(pool_blocks: int = 100, **options: int) -> ReuseEstimator:
    return ReuseEstimator(block_bytes=1 << 20, block_tokens=4, pool_blocks=pool_blocks, **options)


def finite(estimator: ReuseEstimator) -> int:
    return sum(estimator.histogram.counts[:-1])


def test_pinned_blocks_hit_at_the_active_blocks() -> None:
    estimator = new_estimator()
    hashes = chain(range(5))
    estimator.lookup("a", hashes, 21, 0, hit_blocks=0)
    estimator.lookup("b", hashes, 21, 6, hit_blocks=5)
    assert finite(estimator) == 5
    assert estimator.histogram.sum_bytes == 5 * 7 << 20


def test_pinned_blocks_that_are_not_computed_yet_miss_at_every_size() -> None:
    estimator = new_estimator()
    hashes = chain(range(5))
    estimator.lookup("a", hashes, 21, 0, hit_blocks=0)
    estimator.lookup("b", hashes, 21, 6, hit_blocks=2)
    assert finite(estimator) == 2


def test_the_last_token_is_never_looked_up() -> None:
    estimator = new_estimator()
    estimator.lookup("a", chain(range(5)), 20, 0, hit_blocks=0)
    assert estimator.histogram.total == 4


def test_a_preempted_request_is_looked_up_once() -> None:
    estimator = new_estimator()
    hashes = chain(range(5))
    estimator.lookup("a", hashes, 21, 0, hit_blocks=0)
    estimator.free("a", hashes, 12, released=3)
    estimator.lookup("a", hashes, 21, 0, hit_blocks=3, counted=False)
    assert estimator.histogram.total == 5
    estimator.free("a", hashes, 21, released=5)
    estimator.lookup("b", hashes, 21, 0, hit_blocks=5)
    assert (finite(estimator), estimator.histogram.total) == (5, 10)


def test_a_reset_cache_hits_nothing() -> None:
    estimator = new_estimator()
    hashes = chain(range(5))
    estimator.lookup("a", hashes, 21, 0, hit_blocks=0)
    estimator.free("a", hashes, 21, released=5)
    estimator.reset()
    estimator.lookup("b", hashes, 21, 0, hit_blocks=0)
    assert finite(estimator) == 0


def test_what_lies_deeper_than_four_pools_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_plugin.estimator._FEW_KEYS", 20)
    estimator = new_estimator(pool_blocks=10)
    for number in range(10):
        name = str(number)
        hashes = chain([(number, block) for block in range(5)])
        estimator.lookup(name, hashes, 21, 0, hit_blocks=0)
        estimator.free(name, hashes, 21, released=5)
    for number, hits in ((9, 5), (2, 5), (0, 0)):
        before = finite(estimator)
        hashes = chain([(number, block) for block in range(5)])
        estimator.lookup(f"again {number}", hashes, 21, 0, hit_blocks=0)
        assert finite(estimator) - before == hits, number


def test_a_small_pool_still_knows_what_a_large_one_had() -> None:
    """As many samples as cost little are kept however deep they lie."""
    estimator = new_estimator(pool_blocks=1000)
    hashes = chain(range(100))
    estimator.lookup("first", hashes, 401, 0, hit_blocks=0)
    estimator.free("first", hashes, 401, released=100)
    for number in range(200):
        name, others = str(number), [(number, block) for block in range(100)]
        estimator.lookup(name, others, 401, 0, hit_blocks=0)
        estimator.free(name, others, 401, released=100)
    estimator.lookup("again", hashes, 401, 0, hit_blocks=0)
    assert finite(estimator) == 100
    assert estimator.histogram.sum_bytes == sum(20_000 + 1 + block + 1 for block in range(100)) << 20


def test_a_pool_too_small_for_what_ran_at_once_would_have_run_it_in_turn() -> None:
    """60 blocks were active, and 40 of a prompt of 50 known at distance 100: of 110 that were wanted, 80 lack 30."""
    estimator = new_estimator(pool_blocks=1000)
    hashes = chain(range(50))
    estimator.lookup("a", hashes[:40], 161, 0, hit_blocks=0)
    estimator.free("a", hashes[:40], 161, released=40)
    estimator.lookup("b", hashes, 201, 60, hit_blocks=40)
    assert finite(estimator) == 40
    distances = [max(2 * (60 + block) - 111, 51) for block in range(1, 41)]
    assert estimator.histogram.sum_bytes == sum(distance + 1 for distance in distances) << 20


def test_merged_events_keep_their_depth() -> None:
    """With 128 slots for 3,000 events distances are still right to a few percent."""
    estimator = new_estimator(pool_blocks=9_000, slots=128)
    for number in range(3000):
        hashes = chain([(number, block) for block in range(5)])
        estimator.lookup(str(number), hashes, 21, 0, hit_blocks=0)
        estimator.free(str(number), hashes, 21, released=5)
    assert len(estimator._stack._firsts) <= 128
    for number in (100, 700, 2000, 2990):
        hashes = chain([(number, block) for block in range(5)])
        before = estimator.histogram.sum_bytes
        estimator.lookup(f"again {number}", hashes, 21, 0, hit_blocks=5 if number >= 2000 else 0)
        distance = (estimator.histogram.sum_bytes - before) / 5 / (1 << 20) - 1
        assert distance == pytest.approx(5 * (2999 - number) + 3, rel=0.06, abs=10)
        estimator.free(f"again {number}", hashes, 0, released=0)


def test_blocks_that_a_running_request_generated_hit_at_the_active_blocks() -> None:
    estimator = new_estimator()
    hashes = chain(range(5))
    estimator.lookup("a", hashes[:2], 9, 0, hit_blocks=0)
    estimator.lookup("b", hashes, 21, 6, hit_blocks=5)
    assert finite(estimator) == 5
    assert estimator.histogram.sum_bytes == 5 * 7 << 20


@pytest.mark.parametrize(("freed", "distance"), [(20, 6 + 20 + 5), (200, 99)])
def test_hits_that_were_forgotten_lie_below_all_that_is_known(freed: int, distance: int) -> None:
    estimator = new_estimator()
    for number in range(freed // 5):
        hashes = chain([(number, block) for block in range(5)])
        estimator.lookup(str(number), hashes, 21, 0, hit_blocks=0)
        estimator.free(str(number), hashes, 21, released=5)
    estimator.lookup("x", chain(range(5)), 21, 6, hit_blocks=5)
    assert finite(estimator) == 5
    assert estimator.histogram.sum_bytes == 5 * (distance + 1) << 20


def test_big_pools_of_short_chains() -> None:
    """100,000 blocks and chains of 8, all of which are samples: right at every size, against a plain LRU list."""
    pool, documents, length = 100_000, 11_000, 8
    estimator = ReuseEstimator(block_bytes=1 << 16, block_tokens=4, pool_blocks=pool)
    lists: dict[int, OrderedDict[int, None]] = {pool // part: OrderedDict() for part in (1, 2, 4, 20)}
    hits = dict.fromkeys(lists, 0)
    random_ = random.Random(1)
    for number in range(3 * documents):
        document = number if number < documents else random_.randrange(documents)
        hit = dict.fromkeys(lists, 0)
        for size, kept in lists.items():
            hit[size] = length if document in kept else 0
            hits[size] += hit[size]
            kept[document] = None
            kept.move_to_end(document)
            if len(kept) * length > size - 1:
                kept.popitem(last=False)
        hashes = [(document, block) for block in range(length)]
        estimator.lookup(str(number), hashes, length * 4 + 1, 0, hit_blocks=hit[pool])
        estimator.free(str(number), hashes, length * 4 + 1, released=length)
    counts = estimator.histogram.counts
    total = estimator.histogram.total
    for size, found in hits.items():
        assert hits_at(counts, size << 16) / total == pytest.approx(found / total, abs=0.01), size


def test_the_table_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short chains that never come back: samples of one pool, or as many as are kept, and somewhat more."""
    monkeypatch.setattr("vllm_plugin.estimator._MAX_KEYS", 8192)
    for pool, most in ((1250, 8250), (10_000, 13_750)):
        estimator = new_estimator(pool_blocks=pool)
        for number in range(5000):
            hashes = [(number, block) for block in range(4)]
            estimator.lookup(str(number), hashes, 17, 0, hit_blocks=0)
            estimator.free(str(number), hashes, 17, released=4)
        assert len(estimator._table) < most
        assert len(estimator._table) >= min(pool - 4, 4 * pool)


def test_samples_of_blocks_that_others_hold_do_not_pile_up() -> None:
    """The last block of a chain that is held to its end leaves an empty event behind."""
    estimator = new_estimator()
    shared = chain(range(9))
    estimator.lookup("holder", shared, 37, 0, hit_blocks=0)
    for number in range(2000):
        hashes = [*shared, number]
        estimator.lookup(str(number), hashes, 41, 0, hit_blocks=9)
        estimator.free(str(number), hashes, 41, released=0)
    assert len(estimator._table) < 20


def test_samples_fix_their_positions() -> None:
    hashes = list(range(2000))
    for blocks in range(2001):
        keys = sampled(hashes, blocks)
        assert keys == [position(sample) for sample in range(len(keys))]
        assert keys[:4] == hashes[: min(blocks, 4)]
        assert position(len(keys)) >= blocks


def test_it_is_small() -> None:
    """12 k-token requests of 16-token blocks, a pool of 30,000 blocks, twice more than is remembered: 1.5 MB."""
    estimator = ReuseEstimator(block_bytes=2 << 20, block_tokens=16, pool_blocks=30_000)
    tracemalloc.start()
    for index in range(600):
        # Half of them turn back to what was asked before; all digests are new objects, as vLLM makes them.
        digests = random.Random(index % 400).randbytes(750 * 32)
        hashes = [digests[at : at + 32] for at in range(0, len(digests), 32)]
        estimator.lookup(str(index), hashes, 12_003, 100, hit_blocks=0)
        estimator.free(str(index), hashes, 12_003, released=750)
    del hashes, digests
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_500_000


def test_where_chains_part_is_learnt_from_those_that_the_pool_settled() -> None:
    """Prompts of parts: chains part right behind a sample, and half of the gap would be far too much."""
    small, large = 255, 2047
    replay = Replay(sizes=(small, large), observed=small)
    turn = 0

    def play(blocks: list[Hashable]) -> None:
        nonlocal turn
        turn += 1
        replay.admit(str(turn), Job(tuple(blocks), 1, (), 0))
        replay.finish(str(turn))

    shared: list[Hashable] = [("shared", at) for at in range(97)]
    for n in range(40):
        # The pool still has the shared part, and settles where the chain leaves it.
        play([*shared, *(("near", n, at) for at in range(31))])
        play([*shared, *(("far", n, at) for at in range(31))])
        for k in range(4):
            # This evicts it: of the next lookup the small pool knows nothing.
            play([("noise", n, k, at) for at in range(100)])
    error = abs(replay.predicted(large) - replay.pools[large].hit_blocks)
    assert error <= 0.0025 * replay.blocks
