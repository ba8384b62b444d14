"""Workloads in the judge's format, each with the judge that stands above its folder, as `bench.sizing` asks of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from bench.controller import observed
from bench.plugin_replay import PluginReplay
from bench.referee import JudgeMissingError, Referee, load_judge
from recommender import bounds
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import Bound, RecommendationStatus
from recommender.evaluation import Assessment, assess
from recommender.intervals import INTERVALS_PER_WINDOW, Series

WORKLOADS = Path(__file__).resolve().parents[2] / "shared" / "judge" / "workloads"
"""Beside the project."""
JUDGE = "kvsim.py"
Caution = Literal["Normal", "High"]


@dataclass(frozen=True)
class Case:
    """One workload before its judge."""

    name: str
    referee: Referee

    @property
    def observe_seconds(self) -> float:
        return float(self.referee.workload.observe)

    @property
    def end_seconds(self) -> float:
        """When the judged part ends: a second after its last request came."""
        return float(self.referee.workload.t[-1]) + 1

    @property
    def replayed_seconds(self) -> float:
        """When the last request has been served at the default size, at the end of an interval."""
        slot = self.observe_seconds / INTERVALS_PER_WINDOW
        return (float(self.referee.default_run["evt"][-1]) // slot + 1) * slot

    def policy(self, caution: Caution = "Normal", loss_budget: float | None = None, **other: Any) -> PolicySpec:
        """The default policy, its window as long as what may be seen, and what `other` says by the names of the API."""
        window = f"{round(self.observe_seconds)}s"
        return PolicySpec.model_validate(
            {"observationWindow": window, "caution": caution, "lossBudget": loss_budget, **other}
        )

    def history(self, blocks: int, policy: PolicySpec, until: float) -> Series:
        """What the recommender has stored at `until` of a pod that ran with `blocks` all the time, or with the default
        size where a request can never fit into so few."""
        run = self.referee.run(max(blocks, int(self.referee.workload.floor))) or self.referee.default_run
        return observed(PluginReplay(self.referee.workload, run), "judged-0", policy, until)

    def assess(self, series: Series, policy: PolicySpec, now: float) -> Assessment:
        """The recommender's answer at `now`; it remembers the pool that the workload's own arguments made."""
        own = (self.referee.default_blocks + 1) * series.facts.block_bytes
        stands = RecommendationStatus(bounds=[Bound(name=bounds.POOL, kv_bytes=own, message="")])
        return assess(policy, (series,), (series.facts,), stands, (), now)


def cases(folders: Sequence[Path], judge: Path | None) -> list[Case]:
    """The workloads of all folders; each folder's judge stands above it, if none is given.

    Raises `JudgeMissingError`, with what is wrong and where, for a folder that cannot be judged.
    """
    found = []
    for folder in folders:
        index = folder / "workloads.json"
        if not index.is_file():
            raise JudgeMissingError(f"{index} is missing: {folder} holds no workloads in the judge's format")
        module = load_judge(judge or _judge_above(folder))
        found += [Case(name, Referee(module, _loaded(module, name, folder))) for name in _names(index)]
    if not found:
        raise JudgeMissingError(f"there are no workloads in {', '.join(map(str, folders))}")
    return found


def _names(index: Path) -> list[str]:
    try:
        found = json.loads(index.read_text())
    except ValueError as error:
        raise JudgeMissingError(f"{index} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise JudgeMissingError(f"{index} is no JSON object of workloads by name")
    return list(found)


def _loaded(judge: ModuleType, name: str, folder: Path) -> Any:
    try:
        workload = judge.Workload(name, str(folder))
    except (OSError, KeyError, ValueError) as error:
        raise JudgeMissingError(f"{folder}: workload {name}: {type(error).__name__}: {error}") from error
    if float(workload.observe) <= 0:
        raise JudgeMissingError(f"{folder}: workload {name} has observe_hours {workload.observe / 3600:g}: more than 0")
    if not len(workload) or float(workload.t[-1]) < float(workload.observe):
        raise JudgeMissingError(f"{folder}: workload {name} has no request after what may be seen: nothing to judge")
    return workload


def _judge_above(folder: Path) -> Path:
    above = folder.resolve().parent / JUDGE
    return above if above.is_file() else WORKLOADS.parent / JUDGE
