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


Pieces = Sequence[tuple[Any, Any]]
"""Parts of a workload that follow each other, and the replay of each with the size that held then."""


class JudgeMissingError(Exception):
    """There is no judge where one was looked for, or nothing that it could judge."""


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

    def of(self, workload: Any) -> Referee:
        """The same judge, for another workload."""
        return Referee(self._judge, workload)

    def run(self, blocks: int) -> Any:
        """The workload replayed with a pool of `blocks`; None where a request can never fit."""
        if blocks not in self._runs:
            self._runs[blocks] = self._simulate(self.workload, blocks)
        return self._runs[blocks]

    @property
    def default_run(self) -> Any:
        """The replay with the default size; raises `JudgeMissingError` where a request does not fit even there."""
        run = self.run(self.default_blocks)
        if run is None:
            raise JudgeMissingError(
                f"workload {self.workload.name}: a request does not fit into the default, {self.default_blocks} blocks"
            )
        return run

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

    def verdict_of_changes(self, changes: Sequence[tuple[float, int]]) -> tuple[Verdict, Pieces]:
        """The judge's own verdict on sizes that changed on the way, (second, blocks) each; their average counts. And
        what became of the requests that came while each size held."""
        pieces: list[tuple[Any, Any]] = []

        def simulate(workload: Any, size: int) -> Any:
            if workload is self.workload:
                return self.run(int(size))
            pieces.append((workload, self.simulate(workload, size)))
            return pieces[-1][1]

        self._judge.simulate = simulate
        try:
            found = self._judge.judge_changes(self.workload, changes)
            if "does_not_fit" in found["breaches"]:
                # Of such a size the judge says no more.
                blocks = int(found["breaches"]["does_not_fit"])
                return Verdict(
                    blocks, int(self._judge.oracle(self.workload)), self._loss(blocks), {"does_not_fit": 1}
                ), []
        finally:
            self._judge.simulate = self._simulate
        verdict = Verdict(round(found["size"]), int(found["oracle"]), float(found["loss"]), dict(found["breaches"]))
        return verdict, pieces

    def breaches_between(self, pieces: Pieces, start: float, end: float) -> dict[str, float]:
        """What of the SLO is broken by the requests that came in [start, end), against the same ones at the default
        size; by the judge's own rule."""
        seen = _figures(pieces, start, end)
        base = _figures([(self.workload, self.run(self.default_blocks))], start, end)
        return dict(self._judge.breaches(seen, base)) if seen and base else {}

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

    def lost_hit_rate(self, blocks: int) -> float:
        """Share of the judged tokens, 0 to 1, that hit in a pool of the default size and not in one of `blocks`."""
        run = self.run(blocks)
        # Where a request does not fit nothing is served, and all hits are lost.
        left = self._metrics(run)["hr"] if run is not None else 0.0
        return float(self._metrics(self.run(self.default_blocks))["hr"] - left)

    def _loss(self, blocks: int) -> float:
        allowed = min(0.01, 0.05 * (1 - self._metrics(self.run(self.default_blocks))["hr"]))
        return self.lost_hit_rate(blocks) / allowed if allowed > 0 else 0.0

    def _metrics(self, run: Any) -> dict[str, Any]:
        return dict(self._judge.metrics(self.workload, run, self.workload.observe))


def _figures(pieces: Pieces, start: float, end: float) -> dict[str, float]:
    """Of the requests that came in [start, end), by the names that the judge has for them; empty where none came."""
    tokens = hits = preempted = blocked = requests = 0.0
    finished = True
    for piece, run in pieces:
        of = (piece.t >= start) & (piece.t < end)
        tokens, hits = tokens + float(piece.inl[of].sum()), hits + float(run["hit_tok"][of].sum())
        preempted, blocked = preempted + float(run["npre"][of].sum()), blocked + float(run["kvblk"][of].sum())
        requests, finished = requests + int(of.sum()), finished and bool(run["ok"])
    if not requests:
        return {}
    return {"hr": hits / tokens, "preempt": preempted, "kvblk_frac": blocked / requests, "ok": finished}


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
