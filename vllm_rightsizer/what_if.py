"""`vllm-rightsizer what-if`: sizes under another policy, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recommender.api.units import format_bytes
from recommender.history_files import HistoryError
from recommender.policy_changes import PolicyChangeError, policy_change
from recommender.what_ifs import Comparison, Outcome, what_if
from vllm_rightsizer.errors import UsageError, UserError
from vllm_rightsizer.output import write_document
from vllm_rightsizer.reading import Source, read_sizes
from vllm_rightsizer.reading_options import Output
from vllm_rightsizer.tables import show, table

_WIDTH_WITHOUT_TERMINAL = 160


def print_what_if(
    source: Source,
    history: Path,
    policy: str | None,
    settings: Sequence[str],
    namespace: str | None,
    workload: str | None,
    output: Output,
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
    if output is not Output.TEXT:
        write_document([one.to_json() for one in found], as_yaml=output is Output.YAML)
        return
    show(lambda console: _print(console, found), _WIDTH_WITHOUT_TERMINAL)


def _print(console: Console, found: Sequence[Comparison]) -> None:
    console.print(_table(found))
    for one in found:
        if one.then is None:
            said = f"{one.key}: nothing would be recommended: {one.reason}"
            console.print(said, highlight=False, markup=False)


def _table(found: Sequence[Comparison]) -> Table:
    rows = table(
        "workload",
        "own pool",
        "now",
        "what if",
        "difference",
        "allocation",
        "hit rate",
        "decided by",
        "would have missed",
    )
    for one in found:
        rows.add_row(
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
        rows.add_row(f"all {len(found)}", *_together(found))
    return rows


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
