"""Does a recommendation hold on the day after? `python -m bench.sizing DIR... --json [--caution High]`.

DIR: folders of workloads in the judge's format. For each workload the plugin's estimator watches the simulated pool
for the first `observe_hours`, the recommender sizes by what it would have scraped until then, and the judge replays
the rest with that size: one JSON object a workload, a summary at the end. Sizes are in blocks that requests can use.
With `--controller` the recommender goes on watching, and the size may grow on the way; the size that counts is then
the average.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.controller import control, observed, usable_blocks
from bench.plugin_replay import PluginReplay
from bench.referee import JudgeMissingError, Referee, Summary, Verdict, load_judge
from recommender import bounds
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import Bound, RecommendationStatus
from recommender.curves import HitRateCurve
from recommender.evaluation import Assessment, assess
from recommender.histograms import unpack
from recommender.intervals import Series

WORKLOADS = Path(__file__).resolve().parents[2] / "shared" / "judge" / "workloads"
"""Beside the project."""
JUDGE = "kvsim.py"
LOSS_BUDGET = 0.75
"""The policy's lossBudget with --controller."""
Caution = Literal["Normal", "High"]


@dataclass(frozen=True)
class Case:
    """One workload before its judge."""

    name: str
    referee: Referee

    @property
    def observe_seconds(self) -> float:
        return float(self.referee.workload.observe)

    def policy(self, caution: Caution, loss_budget: float | None = None) -> PolicySpec:
        """The default policy, its window as long as what may be seen: 48 h in all folders so far."""
        window = f"{round(self.observe_seconds)}s"
        return PolicySpec(observation_window=window, caution=caution, loss_budget=loss_budget)

    def history(self, blocks: int, policy: PolicySpec, until: float) -> Series:
        """What the recommender has stored at `until` of a pod that ran with `blocks` all the time."""
        return observed(PluginReplay(self.referee.workload, self.referee.run(blocks)), "judged-0", policy, until)

    def assess(self, series: Series, policy: PolicySpec, now: float) -> Assessment:
        """The recommender's answer at `now`; it remembers the pool that the workload's own arguments made."""
        own = (self.referee.default_blocks + 1) * series.facts.block_bytes
        stands = RecommendationStatus(bounds=[Bound(name=bounds.POOL, kv_bytes=own, message="")])
        return assess(policy, (series,), (series.facts,), stands, (), now)


def cases(folders: Sequence[Path], judge: Path | None) -> list[Case]:
    """The workloads of all folders; each folder's judge stands above it, if none is given."""
    found = []
    for folder in folders:
        index = folder / "workloads.json"
        if not index.is_file():
            raise JudgeMissingError(f"{index} is missing: {folder} holds no workloads in the judge's format")
        module = load_judge(judge or _judge_above(folder))
        found += [
            Case(name, Referee(module, module.Workload(name, str(folder)))) for name in json.loads(index.read_text())
        ]
    return found


def _judge_above(folder: Path) -> Path:
    above = folder.resolve().parent / JUDGE
    return above if above.is_file() else WORKLOADS.parent / JUDGE


def first_recommendation(case: Case, caution: Caution) -> tuple[Verdict, Assessment]:
    """48 h are seen at the default size, one size follows, the rest is judged without a change."""
    policy, default = case.policy(caution), case.referee.default_blocks
    found = case.assess(case.history(default, policy, case.observe_seconds), policy, case.observe_seconds)
    return case.referee.verdict(usable_blocks(found, default)), found


def rounds(case: Case, caution: Caution, count: int) -> list[int]:
    """Observe at the size recommended before, recommend again: `count` sizes, the first from the default pool."""
    policy, blocks = case.policy(caution), case.referee.default_blocks
    sizes = []
    for _ in range(count):
        series = case.history(blocks, policy, case.observe_seconds)
        blocks = usable_blocks(case.assess(series, policy, case.observe_seconds), blocks)
        sizes.append(blocks)
    return sizes


def hindsight(case: Case, oracle: int) -> dict[str, Any]:
    """The knee of the judged part itself against the oracle: what a perfect forecast would give."""
    referee, observed = case.referee, case.observe_seconds
    run = referee.run(referee.default_blocks)
    replay = PluginReplay(referee.workload, run)
    ended = (float(run["evt"][-1]) // observed + 1) * observed
    _, before, *_, after = (sample for _, sample in replay.samples(observed, ended))
    judged = after.counters.since(before.counters)
    facts = replay.facts
    curve = HitRateCurve(unpack(judged.reuse), facts.block_tokens, judged.lookup_tokens)
    allowed = bounds.allowed_loss(curve, facts.capacity_bytes, case.policy("Normal").hit_rate_loss)
    knee = max(curve.knee(allowed, facts.capacity_bytes) / facts.block_bytes - 1, 0)
    return {
        "knee": round(knee),
        "knee_binds": referee.hit_rate_binds(oracle),
        "knee_off": round(knee / oracle - 1, 4),
        "knee_off_gib": round((knee - oracle) * facts.block_bytes / (1 << 30), 3),
    }


def judged_line(case: Case, caution: Caution, options: argparse.Namespace) -> tuple[Verdict, dict[str, Any]]:
    """One workload's verdict, and what is printed of it."""
    if options.controller:
        changed = control(case.referee, case.policy(caution, LOSS_BUDGET))
        more: dict[str, Any] = {"first": changed.first, "restarts": changed.restarts}
        verdict = changed.verdict
    else:
        verdict, found = first_recommendation(case, caution)
        more = {"bound_by": found.sizing.bound_by if found.sizing else ""}
    if options.hindsight:
        more |= hindsight(case, verdict.oracle)
    if options.rounds:
        more["rounds"] = rounds(case, caution, options.rounds)
    return verdict, {
        "workload": case.name,
        "blocks": verdict.blocks,
        "oracle": verdict.oracle,
        "regret": round(verdict.regret, 4),
        "loss": round(verdict.loss, 3),
        "breaches": verdict.breaches,
        "default": case.referee.default_blocks,
        **more,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    caution: Caution = options.caution
    judged: list[tuple[Case, Verdict]] = []
    try:
        for case in cases(options.folders or [WORKLOADS], options.judge):
            verdict, result = judged_line(case, caution, options)
            judged.append((case, verdict))
            _print(result, options.json)
            case.referee.forget()
        if not judged:
            raise JudgeMissingError("there are no workloads in these folders")
    except JudgeMissingError as error:
        print(f"bench.sizing: {error}", file=sys.stderr)
        return 2
    hardware = [case.referee.workload.hardware for case, _ in judged]
    summary = Summary(
        verdicts=[verdict for _, verdict in judged],
        default_bytes=[int(one.default_blocks) * int(one.block_bytes) for one in hardware],
        block_bytes=[int(one.block_bytes) for one in hardware],
    )
    _print(summary.as_json(), options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help=f"default: {WORKLOADS}")
    parser.add_argument("--judge", type=Path, help=f"default: {JUDGE} in the folder above DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--caution", choices=("Normal", "High"), default="Normal", help="as in VLLMPolicy")
    parser.add_argument("--controller", action="store_true", help="watch a loss budget, and grow during the judged day")
    parser.add_argument("--hindsight", action="store_true", help="also the knee of the judged part itself")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="also N rounds from a pool already shrunk")
    return parser


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    else:
        print("  ".join(f"{name} {value}" for name, value in result.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
