"""The pure parts of `bench.sizing`: the event log read as the plugin would, and what is made of verdicts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.cases import Case
from bench.plugin_replay import PluginReplay
from bench.referee import JudgeMissingError, Referee, Summary, Verdict, load_judge
from bench.sizing import main, usable_blocks
from recommender.evaluation import Assessment
from recommender.histograms import unpack

ADMIT, FREE = 0, 1
USABLE = 100


def workload(chains: list[list[int]], tokens: list[int]) -> Any:
    hardware = SimpleNamespace(name="tiny", block_bytes=1 << 21, weights=1e9, default_blocks=USABLE)
    return SimpleNamespace(
        hardware=hardware,
        name="tiny",
        max_model_len=320,
        floor=21,
        observe=100.0,
        n_content=1 + max(max(chain) for chain in chains),
        t=np.arange(len(chains), dtype=float),
        inl=np.array(tokens),
        outl=np.full(len(chains), 16),
        off=np.cumsum([0, *map(len, chains)]),
        ids=np.array([block for chain in chains for block in chain]),
    )


def run(events: list[tuple[float, int, int, int, int]], finished: list[float], **more: Any) -> Any:
    """Events: second, kind, request, active blocks before, hit blocks or computed tokens."""
    nothing = np.zeros(len(finished), int)
    return {
        "C": USABLE,
        "evt": np.array([event[0] for event in events]),
        "ev": np.array([event[1:] for event in events]),
        "tfin": np.array(finished),
        "npre": nothing,
        "kvblk": nothing,
        **more,
    }


def test_two_requests_that_share_a_prefix():
    work = workload([[0, 1, 2, 3], [0, 1, 4, 5]], [70, 64])
    # 70 tokens are 5 blocks; then a hit on two blocks that the first one holds, and two new ones.
    log = run([(1, ADMIT, 0, 0, 0), (2, ADMIT, 1, 5, 2), (3, FREE, 0, 7, 79), (4, FREE, 1, 4, 64)], [3, 4])
    replay = PluginReplay(work, log)
    *_, (at, sample) = replay.samples(10, 10)
    assert at == 10
    assert replay.largest_gap == 0
    assert sample.counters.requests == 2
    assert sample.counters.lookup_tokens == 134
    assert sample.counters.hit_tokens == 32
    assert sample.counters.preemptions == 0
    block = sample.facts.block_bytes
    assert sample.active_peak_bytes == 7 * block
    assert sample.demand_peak_bytes == 7 * block
    assert sample.active_bytes == 0
    # Four blocks of the first request were new; of the second's three that may hit, two were held: 5 active blocks.
    assert replay.estimator.histogram.counts[-1] == 5
    assert unpack(sample.counters.reuse)[-1] == 7


def test_a_demand_leaves_out_what_running_requests_hold_but_not_what_is_free():
    work = workload([[0, 1, 2, 3], [0, 1, 2, 3]], [80, 80])
    log = run([(1, ADMIT, 0, 0, 0), (2, FREE, 0, 5, 80), (3, ADMIT, 1, 0, 4), (9, FREE, 1, 5, 80)], [2, 9])
    samples = dict(PluginReplay(work, log).samples(5, 5))
    assert samples[5].demand_peak_bytes == 5 * samples[5].facts.block_bytes
    assert samples[5].active_bytes == 4 * samples[5].facts.block_bytes


def test_a_sample_knows_nothing_of_what_comes_after_it():
    work = workload([[0, 1], [2, 3]], [40, 40])
    log = run([(1, ADMIT, 0, 0, 0), (2, FREE, 0, 3, 48), (30, ADMIT, 1, 0, 0), (31, FREE, 1, 3, 48)], [2, 31])
    assert [(at, sample.counters.requests) for at, sample in PluginReplay(work, log).samples(15, 45)] == [
        (0, 0),
        (15, 1),
        (30, 1),
        (45, 2),
    ]


def test_a_preempted_request_counts_once():
    work = workload([[0, 1]], [40])
    log = run(
        [(1, ADMIT, 0, 0, 0), (2, FREE, 0, 3, 41), (3, ADMIT, 0, 0, 2), (4, FREE, 0, 3, 48)],
        [4],
        npre=np.array([1]),
        kvblk=np.array([1]),
    )
    *_, (_, sample) = PluginReplay(work, log).samples(5, 5)
    counters = sample.counters
    assert (counters.requests, counters.lookup_tokens, counters.hit_tokens) == (1, 40, 0)
    assert (counters.preemptions, counters.admissions_blocked) == (1, 1)
    assert sample.demand_peak_bytes == (USABLE + 1) * sample.facts.block_bytes


def test_a_block_computed_twice_at_once_is_held_twice():
    work = workload([[0, 1], [0, 1]], [40, 40])
    log = run([(1, ADMIT, 0, 0, 0), (1, ADMIT, 1, 3, 0), (2, FREE, 0, 6, 40), (3, FREE, 1, 3, 40)], [2, 3])
    replay = PluginReplay(work, log)
    *_, (_, sample) = replay.samples(5, 5)
    assert replay.largest_gap == 0
    assert sample.active_bytes == 0


def test_the_history_is_cut_into_intervals_of_the_window():
    work = workload([[0, 1], [2, 3]], [40, 40])
    work.observe = 9600.0
    log = run([(250, ADMIT, 0, 0, 0), (260, FREE, 0, 3, 48), (9550, ADMIT, 1, 0, 0)], [260, 9999])
    case = Case("tiny", Referee(SimpleNamespace(simulate=lambda *_: log), work))
    policy = case.policy("Normal")
    series = case.history(USABLE, policy, case.observe_seconds)
    assert policy.observation_window_seconds == 9600
    assert len(series.intervals) == 96
    assert {interval.seconds for interval in series.intervals} == {100}
    assert [interval.start for interval in series.intervals if interval.requests] == [200, 9500]


def test_without_a_recommendation_the_pool_stays():
    assert usable_blocks(Assessment(), 77) == 77


def test_a_request_that_does_not_fit_even_by_default_is_said():
    referee = Referee(SimpleNamespace(simulate=lambda *_: None), workload([[0]], [20]))
    with pytest.raises(JudgeMissingError, match="workload tiny: a request does not fit into the default, 100 blocks"):
        Case("tiny", referee).history(50, Case("tiny", referee).policy(), 100.0)


def test_of_changes_that_do_not_fit_the_judge_says_no_more():
    judge = SimpleNamespace(
        simulate=lambda *_: {"hr": 0.9},
        judge_changes=lambda *_: {"breaches": {"does_not_fit": 30}},
        oracle=lambda _: 40,
        metrics=lambda _, run, __: run,
    )
    verdict, pieces = Referee(judge, workload([[0]], [20])).verdict_of_changes([(100.0, 30)])
    assert verdict == Verdict(30, 40, 0.0, {"does_not_fit": 1})
    assert not pieces


def test_the_judge_is_not_asked_to_replay_a_size_twice():
    asked: list[int] = []

    def simulate(_: Any, blocks: int) -> dict[str, int]:
        asked.append(blocks)
        return {"C": blocks}

    def judge(work: Any, blocks: float) -> dict[str, Any]:
        for size in (100, 50, 100, int(blocks)):
            module.simulate(work, size)
        return {"blocks": int(blocks), "oracle": 40, "breaches": {"hit_rate": 0.5}}

    def metrics(_: Any, played: dict[str, int], __: float) -> dict[str, float]:
        return {"hr": 0.5 + played["C"] / 10_000}

    module = SimpleNamespace(simulate=simulate, judge=judge, metrics=metrics)
    referee = Referee(module, workload([[0]], [20]))
    verdict = referee.verdict(50)
    assert asked == [100, 50]
    assert module.simulate is simulate
    assert verdict == Verdict(50, 40, pytest.approx(0.5), {"hit_rate": 0.5})
    assert verdict.regret == 1.25


def test_the_summary():
    verdicts = [Verdict(50, 40, 1.5, {"hit_rate": 0.1}), Verdict(80, 80, 0.2, {})]
    assert Summary(verdicts, default_bytes=[1000, 1000], block_bytes=[10, 10]).as_json() == {
        "workloads": 2,
        "broken": 1,
        "broken_share": 0.5,
        "geomean": round(1.25**0.5, 4),
        "p90": 1.225,
        "saving_share": round(700 / 800, 4),
        "worst_loss": 1.5,
    }


def test_what_is_missing_is_said(tmp_path, capsys):
    with pytest.raises(JudgeMissingError, match="--judge"):
        load_judge(tmp_path / "kvsim.py")
    assert main([str(tmp_path)]) == 2
    assert "workloads.json is missing" in capsys.readouterr().err
