"""`vllm-rightsizer what-if`: sizes under another policy, as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recommender.api.units import format_bytes
from recommender.history_files import HistoryError
from recommender.policy_changes import PolicyChangeError, policy_change
from recommender.what_ifs import Comparison, Outcome, what_if
from vllm_rightsizer.errors import UsageError, UserError
from vllm_rightsizer.reading import Source, read_sizes

_WIDTH_WITHOUT_TERMINAL = 160


def print_what_if(
    source: Source,
    history: Path,
    policy: str | None,
    settings: Sequence[str],
    namespace: str | None,
    workload: str | None,
    *,
    as_json: bool,
) -> None:
    """Print what the policy called `policy`, or each workload's own, with `settings` changed in it, would recommend."""
    if policy is None and not settings:
        raise UsageError("say which policy to try: --policy NAME, or --set FIELD=VALUE, such as --set percentile=95")
    store = read_sizes(source, namespace)
    try:
        change = policy_change(store, policy, settings)
        found = list(what_if(store, history, change, namespace, workload))
    except PolicyChangeError as error:
        raise UsageError(str(error)) from error
    except HistoryError as error:
        raise UserError(str(error)) from error
    if not found:
        where = f" in namespace {namespace}" if namespace else ""
        what = f"of a workload called {workload}" if workload else ""
        raise UsageError(f"there is no VLLMRecommendation {what}{where}".replace("  ", " "))
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    console.print(_table(found))
    for one in found:
        if one.then is None:
            console.print(f"{one.key}: nothing would be recommended: {one.reason}", highlight=False)


def _table(found: Sequence[Comparison]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (
        "workload",
        "own pool",
        "now",
        "what if",
        "difference",
        "allocation",
        "hit rate",
        "decided by",
        "would have missed",
    ):
        table.add_column(column, overflow="fold", justify="left")
    for one in found:
        table.add_row(
            str(one.key),
            format_bytes(one.own_bytes),
            format_bytes(one.now.kv_bytes) if one.now else "–",
            format_bytes(one.then.kv_bytes) if one.then else "–",
            _difference(one),
            f"{_allocation(one.now)} → {_allocation(one.then)}",
            f"{_percent(one.now)} → {_percent(one.then)}",
            one.then.bound_by if one.then else "",
            _risk(one),
        )
    if len(found) > 1:
        table.add_row(f"all {len(found)}", *_together(found))
    return table


def _together(found: Sequence[Comparison]) -> tuple[str, ...]:
    """Sums over the workloads, an engine's rank of each; where nothing is recommended the own pool stays."""
    own = sum(one.own_bytes for one in found)
    now = sum(one.now.kv_bytes if one.now else one.own_bytes for one in found)
    then = sum(one.then.kv_bytes if one.then else one.own_bytes for one in found)
    return format_bytes(own), format_bytes(now), format_bytes(then), _signed(then - now)


def _difference(one: Comparison) -> str:
    if one.then is None:
        return ""
    return _signed(one.then.kv_bytes - (one.now.kv_bytes if one.now else one.own_bytes))


def _signed(size: int) -> str:
    return f"{'-' if size < 0 else '+'}{format_bytes(abs(size))}"


def _allocation(outcome: Outcome | None) -> str:
    return format_bytes(outcome.allocation_bytes) if outcome else "–"


def _percent(outcome: Outcome | None) -> str:
    return f"{outcome.hit_rate:.2%}" if outcome else "–"


def _risk(one: Comparison) -> str:
    if one.then is None:
        return ""
    return f"{one.then.parts_over} of {one.parts} parts, {one.then.intervals_over} of {one.intervals} peaks"
