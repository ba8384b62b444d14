"""Does a recommendation hold on the day after? `python -m bench.sizing DIR... --json [--caution High]`.

DIR: folders of workloads in the judge's format. For each workload the plugin's estimator watches the simulated pool
for the first `observe_hours`, the recommender sizes by what it would have scraped until then, and the judge replays
the rest with that size: one JSON object a workload, a summary at the end. Sizes are in blocks that requests can use.
With `--controller` the recommender goes on watching, and the size may grow on the way; the size that counts is then
the average. `--drift` does the same with workloads put together from these, whose traffic changes on the way.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.cases import JUDGE, WORKLOADS, Case, Caution, cases
from bench.controller import between, control, usable_blocks
from bench.drift import RECOVERY_SECONDS, drifts, recovery
from bench.referee import JudgeMissingError, Summary, Verdict
from bench.settings import SETTINGS, monotone, sizes_by_setting, table
from recommender import bounds
from recommender.curves import HitRateCurve
from recommender.intervals import Series

LOSS_BUDGET = 0.75
"""The policy's lossBudget with --controller and --drift."""

Line = dict[str, Any]


def rounds(case: Case, caution: Caution, count: int) -> list[int]:
    """Observe at the size recommended before, recommend again: `count` sizes, the first from the default pool."""
    policy, blocks = case.policy(caution), case.referee.default_blocks
    sizes = []
    for _ in range(count):
        series = case.history(blocks, policy, case.observe_seconds)
        blocks = usable_blocks(case.assess(series, policy, case.observe_seconds), blocks)
        sizes.append(blocks)
    return sizes


def hindsight(case: Case, whole: Series, oracle: int) -> Line:
    """The knee of the judged part itself against the oracle: what a perfect forecast would give. `whole`: the history
    of the pool of the default size, to the end."""
    facts = whole.facts
    judged = between(whole, case.observe_seconds, math.inf).columns
    curve = HitRateCurve(judged.cumulative(), facts.block_tokens, judged.total("lookup_tokens"))
    allowed = bounds.allowed_loss(curve, facts.capacity_bytes, case.policy().hit_rate_loss)
    knee = max(curve.knee(allowed, facts.capacity_bytes) / facts.block_bytes - 1, 0)
    return {
        "knee": round(knee),
        "knee_binds": case.referee.hit_rate_binds(oracle),
        "knee_off": round(knee / oracle - 1, 4),
        "knee_off_gib": round((knee - oracle) * facts.block_bytes / (1 << 30), 3),
    }


def judged_lines(
    case: Case, everyone: Sequence[Case], options: argparse.Namespace
) -> Iterator[tuple[Case, Verdict, Line]]:
    """Verdicts on one workload, or with `--drift` on each change of its traffic, and what is printed of them."""
    if options.drift:
        for drift in drifts(case, everyone):
            found = recovery(drift, options.caution, LOSS_BUDGET)
            judged = found.judged
            more: Line = {
                "first": judged.first,
                "restarts": judged.restarts,
                "restarts_after": found.restarts_after,
                "recovered_hours": found.hours,
                "less_while_short": judged.less_while_short,
            }
            yield drift.case, judged.verdict, _line(drift.case, judged.verdict, more)
            drift.case.referee.forget()
        return
    if options.controller:
        changed = control(case.referee, case.policy(options.caution, LOSS_BUDGET))
        more = {"first": changed.first, "restarts": changed.restarts, "less_while_short": changed.less_while_short}
        yield case, changed.verdict, _line(case, changed.verdict, more)
        return
    # 48 h are seen at the default size, one size follows, the rest is judged without a change.
    policy, default, now = case.policy(options.caution), case.referee.default_blocks, case.observe_seconds
    whole = case.history(default, policy, case.replayed_seconds if options.hindsight else now)
    seen = between(whole, 0.0, now)
    sized = case.assess(seen, policy, now)
    verdict = case.referee.verdict(usable_blocks(sized, default))
    more = {"bound_by": sized.sizing.bound_by if sized.sizing else ""}
    if options.hindsight:
        more |= hindsight(case, whole, verdict.oracle)
    if options.rounds:
        more["rounds"] = rounds(case, options.caution, options.rounds)
    if options.settings:
        more["settings"] = sizes_by_setting(case, seen, options.caution, options.settings)
    yield case, verdict, _line(case, verdict, more)


def _line(case: Case, verdict: Verdict, more: Line) -> Line:
    return {
        "workload": case.name,
        "blocks": verdict.blocks,
        "oracle": verdict.oracle,
        "regret": round(verdict.regret, 4),
        "loss": round(verdict.loss, 3),
        "breaches": verdict.breaches,
        "default": case.referee.default_blocks,
        **more,
    }


def summed_up(lines: Sequence[Line]) -> Line:
    """Of what only some modes tell."""
    found: Line = {}
    if "restarts" in lines[0]:
        found["most_restarts"] = max(line["restarts"] for line in lines)
        found["less_while_short"] = sum(line["less_while_short"] for line in lines)
    if "recovered_hours" in lines[0]:
        hours = [line["recovered_hours"] for line in lines]
        late = [one is None or one * 3600 > RECOVERY_SECONDS for one in hours]
        found |= {"late": sum(late), "longest_hours": max((one for one in hours if one is not None), default=None)}
    if "knee" in lines[0]:
        binding = [line for line in lines if line["knee_binds"]]
        far = [line for line in binding if abs(line["knee_off"]) > 0.03 and abs(line["knee_off_gib"]) > 1]
        found |= {"knees": len(binding), "knees_off": len(far)}
    if "rounds" in lines[0]:
        found["rounds_spread"] = round(max(max(line["rounds"]) / min(line["rounds"]) - 1 for line in lines), 4)
    if "settings" in lines[0]:
        each = [line["settings"] for line in lines]
        found |= {"not_monotone": sum(not monotone(one) for one in each), "settings": table(each)}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.controller or options.drift) and (options.hindsight or options.rounds or options.settings):
        parser.error("--hindsight, --rounds and --settings are about one size: without --controller and --drift")
    judged: list[tuple[Case, Verdict, Line]] = []
    try:
        everyone = cases(options.folders or [WORKLOADS], options.judge)
        for case in everyone:
            for one in judged_lines(case, everyone, options):
                judged.append(one)
                _print(one[2], options.json)
            case.referee.forget()
    except JudgeMissingError as error:
        print(f"bench.sizing: {error}", file=sys.stderr)
        return 2
    hardware = [case.referee.workload.hardware for case, _, _ in judged]
    summary = Summary(
        verdicts=[verdict for _, verdict, _ in judged],
        default_bytes=[int(one.default_blocks) * int(one.block_bytes) for one in hardware],
        block_bytes=[int(one.block_bytes) for one in hardware],
    )
    _print(summary.as_json() | summed_up([line for _, _, line in judged]), options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help=f"default: {WORKLOADS}")
    parser.add_argument("--judge", type=Path, help=f"default: {JUDGE} in the folder above DIR")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    caution: tuple[Caution, ...] = ("Normal", "High")
    parser.add_argument("--caution", choices=caution, default="Normal", help="as in VLLMPolicy")
    changing = parser.add_mutually_exclusive_group()
    changing.add_argument("--controller", action="store_true", help="watch a loss budget, and grow on the judged day")
    changing.add_argument("--drift", action="store_true", help="the same, with traffic that changes on that day")
    parser.add_argument("--hindsight", action="store_true", help="also the knee of the judged part itself")
    parser.add_argument("--rounds", type=int, default=0, metavar="N", help="also N rounds from a pool already shrunk")
    parser.add_argument(
        "--settings",
        nargs="+",
        choices=tuple(SETTINGS),
        default=(),
        help="also a table of what each value of these does; after the folders",
    )
    return parser


def _print(result: Line, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False), flush=True)
    else:
        print("  ".join(f"{name} {value}" for name, value in result.items()), flush=True)


if __name__ == "__main__":
    sys.exit(main())
