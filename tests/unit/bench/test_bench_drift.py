"""The pure parts of `bench.drift` and `bench.settings`: workloads put together, recoveries, tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.cases import Case
from bench.drift import Drift, drifts
from bench.referee import Referee
from bench.settings import monotone, table


def case(name: str, seconds: list[float], max_model_len: int = 320) -> Case:
    """A request of two blocks and a bit at each of these seconds; the first block is the same in all."""
    count = len(seconds)
    work = SimpleNamespace(
        name=name,
        hardware=SimpleNamespace(default_blocks=100),
        max_model_len=max_model_len,
        floor=max_model_len // 16 + 1,
        observe=48.0,
        n_content=count + 1,
        t=np.array(seconds),
        inl=np.arange(count) + 40,
        outl=np.full(count, 16),
        off=np.arange(count + 1) * 2,
        ids=np.array([[0, number + 1] for number in range(count)], np.int32).reshape(-1),
    )
    return Case(name, Referee(SimpleNamespace(simulate=None), work))


CHAT = case("chat-1", [0.5, 10, 20, 30.5, 40, 50, 60, 71])
OTHER = case("rag-1", [5, 55, 58, 70], max_model_len=640)


def changed() -> dict[str, Drift]:
    return {drift.case.name.partition("+")[2]: drift for drift in drifts(CHAT, [CHAT, case("chat-2", [60]), OTHER])}


def chain(work: Any, request: int) -> list[int]:
    return list(work.ids[work.off[request] : work.off[request + 1]])


def test_every_change_comes_a_quarter_into_the_judged_part() -> None:
    assert {name: drift.moment for name, drift in changed().items()} == dict.fromkeys(("x2", "x3", "new", "half"), 54.0)


def test_twice_the_traffic_is_that_of_a_day_before_under_other_names() -> None:
    work = changed()["x2"].case.referee.workload
    # From 54 on, what came from 30 on; 50 + 24 is after the end.
    assert work.t.tolist() == [0.5, 10, 20, 30.5, 40, 50, 54.5, 60, 64, 71]
    assert work.inl.tolist() == [40, 41, 42, 43, 44, 45, 43, 46, 44, 47]
    assert chain(work, 6) == [9, 9 + 4]
    assert chain(work, 7) == [0, 7]
    assert work.n_content == 18
    assert (work.ids.dtype, work.off.dtype) == (np.int32, np.int64)


def test_three_times_the_traffic_shares_no_block_either() -> None:
    work = changed()["x3"].case.referee.workload
    assert work.t.tolist() == [0.5, 10, 20, 30.5, 40, 50, 54.5, 58, 60, 64, 68, 71]
    assert [chain(work, request)[0] for request in (6, 7, 8)] == [9, 18, 0]


def test_a_new_application_is_of_another_kind_and_may_ask_for_longer_requests() -> None:
    work = changed()["new"].case.referee.workload
    assert work.t.tolist() == [0.5, 10, 20, 30.5, 40, 50, 55, 58, 60, 70, 71]
    assert (work.max_model_len, work.floor) == (640, 41)
    assert CHAT.referee.workload.max_model_len == 320


def test_half_the_replicas_is_half_the_traffic_until_then() -> None:
    assert changed()["half"].case.referee.workload.t.tolist() == [0.5, 20, 40, 60, 71]


def test_without_another_kind_there_is_no_new_application() -> None:
    assert [drift.case.name for drift in drifts(CHAT, [CHAT])] == ["chat-1+x2", "chat-1+x3", "chat-1+half"]


def test_the_slo_of_a_stretch_of_time() -> None:
    """Of requests that came while two sizes held: only those of the stretch, against the same ones at the default."""
    work = CHAT.referee.workload
    asked: list[dict[str, float]] = []

    def run(count: int, hits: int, blocked: int) -> dict[str, Any]:
        return {"hit_tok": np.full(count, hits), "npre": np.ones(count), "kvblk": np.full(count, blocked), "ok": True}

    judge = SimpleNamespace(
        simulate=lambda *_: run(8, 32, 0),
        breaches=lambda seen, base: asked.extend((seen, base)) or {"hit_rate": 0.5},
    )
    referee = Referee(judge, work)
    parts = [SimpleNamespace(t=work.t[one], inl=work.inl[one]) for one in (slice(0, 6), slice(6, 8))]
    pieces = [(parts[0], run(6, 8, 0)), (parts[1], run(2, 16, 1))]
    assert referee.breaches_between(pieces, 40.0, 65.0) == {"hit_rate": 0.5}
    tokens = 44 + 45 + 46
    assert asked == [
        {"hr": (8 + 8 + 16) / tokens, "preempt": 3, "kvblk_frac": 1 / 3, "ok": True},
        {"hr": 3 * 32 / tokens, "preempt": 3, "kvblk_frac": 0, "ok": True},
    ]
    assert referee.breaches_between(pieces, 61.0, 62.0) == {}


def lines(*blocks: int) -> list[dict[str, Any]]:
    values = [("percentile", 100), ("percentile", 99), ("points", 1), ("points", 4)]
    return [
        {
            "setting": setting,
            "value": value,
            "blocks": size,
            "hit_rate_bytes": None,
            "demand_bytes": 5,
            "lost_points": size / 100,
            "regret": size / 100,
            "loss": size / 1000,
            "missed": size < 100,
        }
        for (setting, value), size in zip(values, blocks, strict=True)
    ]


def test_a_setting_is_monotone_where_no_stricter_value_asks_for_less() -> None:
    assert monotone(lines(120, 100, 110, 90))
    assert not monotone(lines(99, 100, 110, 90))
    assert not monotone(lines(120, 100, 80, 90))


def test_the_table_is_over_all_workloads() -> None:
    rows = table([lines(120, 100, 110, 90), lines(200, 50, 50, 25)])
    assert [row["geomean"] for row in rows] == [
        round((a * b) ** 0.5, 4) for a, b in ((1.2, 2), (1, 0.5), (1.1, 0.5), (0.9, 0.25))
    ]
    assert [row["broken_share"] for row in rows] == [0.0, 0.5, 0.5, 1.0]
    assert (rows[0]["lost_points"], rows[0]["most_lost_points"], rows[0]["worst_loss"]) == (1.6, 2.0, 0.2)
