"""What a policy's caution, its percentile and its hit-rate limits do: sizes for the same history, before the judge.

One setting changes at a time. The limits are looked at by themselves: where one of them changes, the other allows all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.cases import Case, Caution
from bench.controller import usable_blocks
from recommender import bounds
from recommender.intervals import Series

SETTINGS: dict[str, tuple[tuple[Any, dict[str, Any]], ...]] = {
    "caution": tuple((value, {"caution": value}) for value in ("High", "Normal")),
    "percentile": tuple((value, {"percentile": value}) for value in (100, 99, 95, 90, 85, 80)),
    "points": tuple(
        (value, {"hitRateLoss": {"points": value, "missRatioPercent": 100}}) for value in (0.25, 0.5, 1, 2, 4)
    ),
    "missRatioPercent": tuple(
        (value, {"hitRateLoss": {"points": 100, "missRatioPercent": value}}) for value in (1.25, 2.5, 5, 10, 20)
    ),
}
"""Each from the value that asks for most to the one that asks for least, as the API has it."""


def sizes_by_setting(case: Case, seen: Series, caution: Caution, settings: Sequence[str]) -> list[dict[str, Any]]:
    """For each value of these settings: the blocks recommended after `seen`, what the hit rate and demand ask for, the
    points of hit rate that the judged part loses, and what the judge says of it."""
    referee, found = case.referee, []
    for setting in settings:
        for value, spec in SETTINGS[setting]:
            policy = case.policy(**{"caution": caution, **spec})
            assessed = case.assess(seen, policy, case.observe_seconds)
            verdict = referee.verdict(usable_blocks(assessed, referee.default_blocks))
            asked = {bound.name: bound.kv_bytes for bound in assessed.sizing.bounds} if assessed.sizing else {}
            found.append(
                {
                    "setting": setting,
                    "value": value,
                    "blocks": verdict.blocks,
                    "hit_rate_bytes": asked.get(bounds.HIT_RATE),
                    "demand_bytes": asked.get(bounds.DEMAND),
                    "lost_points": round(100 * referee.lost_hit_rate(verdict.blocks), 3),
                    "regret": round(verdict.regret, 4),
                    "loss": round(verdict.loss, 3),
                    "missed": bool(verdict.breaches),
                }
            )
    return found


def monotone(lines: Sequence[dict[str, Any]]) -> bool:
    """Does no stricter value of a setting ask for less than the next one?"""
    neighbours = [(one, other) for one, other in itertools.pairwise(lines) if one["setting"] == other["setting"]]
    return all(
        one[asked] is None or one[asked] >= other[asked]
        for one, other in neighbours
        for asked in ("blocks", "hit_rate_bytes", "demand_bytes")
    )


def table(all_lines: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Over all workloads, for each value: the geometric mean of the size against the oracle's, the share of days missed
    by the judge's SLO, which is that of the default limits, the mean and the largest of the points lost, and the
    largest loss in the judge's budgets."""
    rows = []
    for each in zip(*all_lines, strict=True):
        lost = [one["lost_points"] for one in each]
        rows.append(
            {
                "setting": each[0]["setting"],
                "value": each[0]["value"],
                "geomean": round(float(np.exp(np.mean(np.log([one["regret"] for one in each])))), 4),
                "broken_share": round(sum(one["missed"] for one in each) / len(each), 4),
                "lost_points": round(float(np.mean(lost)), 3),
                "most_lost_points": max(lost),
                "worst_loss": max(one["loss"] for one in each),
            }
        )
    return rows
