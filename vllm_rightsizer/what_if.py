"""`vllm-rightsizer what-if`: sizes under another policy, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel
from rich.console import Console
from rich.table import Table

from recommender.api.object_store import ObjectReader
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.units import format_bytes
from recommender.history_files import HistoryError
from recommender.policy_changes import PolicyChange, PolicyChangeError, policy_change
from recommender.what_ifs import Comparison, Outcome, what_if
from vllm_rightsizer.errors import UsageError, UserError
from vllm_rightsizer.listing import hint_for
from vllm_rightsizer.output import csv_of, write_document, write_out
from vllm_rightsizer.reading import Source, read_sizes
from vllm_rightsizer.reading_options import Color, Output
from vllm_rightsizer.tables import Paper, show, table
from vllm_rightsizer.workload_names import chosen, known_of

_WIDTH_WITHOUT_TERMINAL = 160


def print_what_if(
    source: Source,
    history: Path,
    policy: str | None,
    settings: Sequence[str],
    namespace: str | None,
    workload: str | None,
    output: Output,
    color: Color,
) -> None:
    """Print what the policy called `policy`, or each workload's own, with `settings` changed in it, would recommend for
    `workload`, None for all, in `namespace`, None for all."""
    if policy is None and not settings:
        raise UsageError("say which policy to try: --policy NAME, or --set FIELD=VALUE, such as --set percentile=95")
    store = read_sizes(source, namespace)
    meant = None
    if workload is not None:
        known = known_of(store.list(VLLMRecommendation.KIND, namespace))
        meant = {(one.key.namespace, one.recommendation) for one in chosen(workload, known, namespace)}
    try:
        change = policy_change(store, policy, settings)
        found = list(_compared(store, history, change, namespace, meant))
    except PolicyChangeError as error:
        raise UsageError(str(error)) from error
    except HistoryError as error:
        raise UserError(str(error)) from error
    if not found and workload is not None:
        raise UserError(f"what is recommended for {workload} cannot be understood: `vllm-rightsizer list` says why")
    if not found:
        print(hint_for(source, namespace), file=sys.stderr)
    if output is Output.CSV:
        write_out(csv_of([_line(one) for one in found]))
    elif not output.is_table:
        write_document([one.to_json() for one in found], as_yaml=output is Output.YAML)
    elif found:
        wide = output is Output.WIDE
        show(lambda console: _print(console, found), Paper.of(color), _WIDTH_WITHOUT_TERMINAL, wide=wide)


def _compared(
    store: ObjectReader,
    history: Path,
    change: PolicyChange,
    namespace: str | None,
    meant: Collection[tuple[str, str | None]] | None,
) -> Iterator[Comparison]:
    """Of all, or of those that are `meant`: a namespace and the name of a recommendation each."""
    if meant is None:
        yield from what_if(store, history, change, namespace)
        return
    for where, name in sorted(meant, key=str):
        yield from what_if(store, history, change, where, name)


def _line(one: Comparison) -> dict[str, Any]:
    """What is nested in the JSON, `now` and `then`, side by side."""
    document = one.to_json()
    fields = [to_camel(field.name) for field in dataclasses.fields(Outcome)]
    flat = {name: value for name, value in document.items() if name not in ("now", "then", "reason")}
    for when in ("now", "then"):
        outcome = document[when] or {}
        flat |= {f"{when}{name[0].upper()}{name[1:]}": outcome.get(name) for name in fields}
    return {**flat, "reason": document["reason"]}


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
