"""What the demo promises, and that it notices where a promise is not kept."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from recommender.api.recommendations import Target
from vllm_rightsizer.demo import machine, picture, report
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS
from vllm_rightsizer.demo.readings import Curve, PluginReading
from vllm_rightsizer.demo.results import Measurement, Result
from vllm_rightsizer.errors import UserError

CURVE = Curve(
    tuple(2.0 ** (at / 8) for at in range(160, 305)), tuple(min(0.65, (at - 160) / 130) for at in range(160, 305))
)


def measurement(blocks: int, hit_rate: float) -> Measurement:
    plugin = PluginReading(
        weights_bytes=14 << 20,
        overhead_bytes=900 << 20,
        pool_bytes=blocks * BLOCK_BYTES,
        active_peak_bytes=26 << 20,
        headroom_bytes=0,
        allocated_bytes=2 << 30,
        floor_bytes=129 * BLOCK_BYTES,
        requests=1500,
        lookup_tokens=2.0 * 10_000 * BLOCK_TOKENS,
        curve=CURVE,
    )
    tokens = 2.0 * 10_000 * BLOCK_TOKENS
    return Measurement(blocks, hit_rate, tokens, 0, 30.0, usage_p99=0.014, plugin=plugin)


TARGET = Target(
    kv_bytes=4_000 * BLOCK_BYTES,
    kv_blocks=4_000,
    allocation_bytes=1 << 30,
    gpu_memory_utilization="0.1000",
    flags=[],
    predicted_hit_rate=0.648,
    bound_by="hitRate",
)
GOOD = Result(measurement(10_000, 0.65), measurement(4_000, 0.649), TARGET, predicted_hit_rate=0.648, seconds=200)


def failed(result: Result) -> list[str]:
    return [check.claim for check in result.checks() if not check.passed]


def test_a_good_result_passes() -> None:
    assert failed(GOOD) == []


@pytest.mark.parametrize(
    ("result", "claim"),
    [
        (
            replace(GOOD, after=replace(GOOD.after, plugin=replace(GOOD.after.plugin, pool_bytes=1))),
            "the plugin's pool is vLLM's own, to the byte",
        ),
        (replace(GOOD, after=measurement(4_001, 0.649)), "the second pool has the recommended number of blocks"),
        (
            replace(GOOD, before=replace(GOOD.before, lookup_tokens=1.4 * 10_000 * BLOCK_TOKENS)),
            "the load looks up at least 1.5 times the pool",
        ),
        (replace(GOOD, before=replace(GOOD.before, hit_rate=0.66)), "the hit rate after is within 1 point"),
        (replace(GOOD, predicted_hit_rate=0.643), "the hit rate after is within 0.5 points of the prediction"),
        (replace(GOOD, after=replace(GOOD.after, preemptions=1)), "no request was preempted"),
    ],
)
def test_each_broken_promise_is_noticed(result: Result, claim: str) -> None:
    (broken,) = failed(result)
    assert broken.startswith(claim)


def test_too_little_given_back() -> None:
    small = replace(GOOD, before=measurement(6_500, 0.65))
    assert failed(small) == [
        "the right size lies between the floor and 60% of the pool",
        "at least 40% of the pool is given back",
    ]


def test_table_json_and_picture_show_it(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    assert report.print_result(console, GOOD)
    assert not report.print_result(console, replace(GOOD, predicted_hit_rate=0.6))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for row in ("weights", "overhead", "KV pool", "active", "headroom", "allocation", "hit rate", "preemptions"):
        assert row in text
    report.write_json(GOOD, tmp_path / "demo.json")
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert figures["reclaimed_bytes"] == 6_000 * BLOCK_BYTES
    picture.draw(GOOD, tmp_path / "demo.svg")
    drawn = (tmp_path / "demo.svg").read_text()
    assert "recommended" in drawn
    assert str(tmp_path) not in drawn


def test_the_curve_between_its_points() -> None:
    curve = Curve((1.0, 2.0, 4.0), (0.1, 0.3, 0.3))
    assert [curve.at(size) for size in (0.5, 1.0, 1.5, 3.0, 9.0)] == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.3])


def test_too_little_memory_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "node_memory", lambda: machine.NodeMemory(4 << 30, 3 << 30))
    with pytest.raises(UserError, match=r"the demo needs 4.23 GiB of free memory .* there are 3.00 GiB of 4.00 GiB"):
        machine.utilization_for_pool()


def test_the_utilization_makes_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "node_memory", lambda: machine.NodeMemory(10 << 30, 9 << 30))
    assert machine.utilization_for_pool() == "0.2230"
