"""The judge beside the project, loaded from its folder: its code is not copied, its simulator not run twice alike."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

BLOCK_TOKENS = 16
"""What the judge's workloads are cut into."""


class JudgeMissingError(Exception):
    """There is no judge where one was looked for."""


def load_judge(path: Path) -> ModuleType:
    """The judge's module; its simulator is compiled by numba on the first call."""
    if not path.is_file():
        raise JudgeMissingError(f"no judge at {path}: give one with --judge")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise JudgeMissingError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    # Where numba finds the compiled simulator in its cache it asks for the module by name.
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise JudgeMissingError(f"{path} cannot be loaded: {error}") from error
    return module


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one size. `loss` in budgets: 1 is all that the SLO allows."""

    blocks: int
    oracle: int
    loss: float
    breaches: dict[str, float]

    @property
    def regret(self) -> float:
        """Size ÷ the smallest size that would have done."""
        return self.blocks / self.oracle


class Referee:
    """One workload before the judge. All sizes here are the judge's: usable blocks, without a null block."""

    def __init__(self, judge: Any, workload: Any) -> None:
        self.workload = workload
        self.default_blocks = int(workload.hardware.default_blocks)
        self._judge = judge
        self._simulate = judge.simulate
        self._runs: dict[int, Any] = {}

    def run(self, blocks: int) -> Any:
        """The workload replayed with a pool of `blocks`; None where a request can never fit."""
        if blocks not in self._runs:
            self._runs[blocks] = self._simulate(self.workload, blocks)
        return self._runs[blocks]

    def verdict(self, blocks: int) -> Verdict:
        """The judge's own verdict, and how much of the loss budget is spent."""
        # The judge replays each size it asks about, and some of them again: it is given what is known already.
        self._judge.simulate = lambda _workload, size: self.run(int(size))
        try:
            found = self._judge.judge(self.workload, blocks)
        finally:
            self._judge.simulate = self._simulate
        blocks = int(found["blocks"])
        return Verdict(blocks, int(found["oracle"]), self._loss(blocks), dict(found["breaches"]))

    def verdict_of_changes(self, changes: Sequence[tuple[float, int]]) -> Verdict:
        """The judge's own verdict on sizes that changed on the way, (second, blocks) each; their average counts."""
        self._judge.simulate = lambda workload, size: (
            self.run(int(size)) if workload is self.workload else self.simulate(workload, size)
        )
        try:
            found = self._judge.judge_changes(self.workload, changes)
        finally:
            self._judge.simulate = self._simulate
        return Verdict(round(found["size"]), int(found["oracle"]), float(found["loss"]), dict(found["breaches"]))

    def part(self, start: float, end: float) -> Any:
        """The requests that arrive in [start, end) as a workload of their own."""
        return self._judge.part(self.workload, start, end)

    def simulate(self, workload: Any, blocks: int) -> Any:
        """A replay of a part; nothing is kept of it."""
        return self._simulate(workload, blocks)

    def hit_rate_binds(self, oracle: int) -> bool:
        """Is the hit rate what makes the next smaller size tried fail? Ask after `verdict`."""
        smaller = [size for size in self._runs if oracle / 1.03 <= size < oracle]
        if not smaller:
            return False
        run = self.run(max(smaller))
        if run is None:
            return False
        return "hit_rate" in self._judge.breaches(self._metrics(run), self._metrics(self.run(self.default_blocks)))

    def forget(self) -> None:
        """Give back the memory of all replays."""
        self._runs.clear()

    def _loss(self, blocks: int) -> float:
        base, run = self._metrics(self.run(self.default_blocks)), self.run(blocks)
        if run is None:
            return float("inf")
        allowed = min(0.01, 0.05 * (1 - base["hr"]))
        return float((base["hr"] - self._metrics(run)["hr"]) / allowed) if allowed > 0 else 0.0

    def _metrics(self, run: Any) -> dict[str, Any]:
        return dict(self._judge.metrics(self.workload, run, self.workload.observe))


@dataclass(frozen=True)
class Summary:
    """All verdicts together; bytes, so that workloads on different cards add up."""

    verdicts: Sequence[Verdict]
    default_bytes: Sequence[int]
    block_bytes: Sequence[int]

    def as_json(self) -> dict[str, Any]:
        regrets = [verdict.regret for verdict in self.verdicts]
        broken = sum(bool(verdict.breaches) for verdict in self.verdicts)
        saved = possible = 0
        for verdict, default, block in zip(self.verdicts, self.default_bytes, self.block_bytes, strict=True):
            saved += default - verdict.blocks * block
            possible += default - verdict.oracle * block
        return {
            "workloads": len(self.verdicts),
            "broken": broken,
            "broken_share": round(broken / len(self.verdicts), 4),
            "geomean": round(float(np.exp(np.mean(np.log(regrets)))), 4),
            "p90": round(float(np.percentile(regrets, 90)), 4),
            "saving_share": round(saved / possible, 4) if possible else 1.0,
            "worst_loss": round(max(verdict.loss for verdict in self.verdicts), 3),
        }
