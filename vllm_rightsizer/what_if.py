"""`vllm-rightsizer what-if`: sizes under another policy, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from recommender.api.object_store import ObjectReader
from recommender.api.objects import InvalidObjectError
from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.api.units import format_bytes
from recommender.history_files import HistoryError
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
    change = _change(store, policy, settings)
    try:
        found = list(what_if(store, history, change, namespace, workload))
    except HistoryError as error:
        raise UserError(str(error)) from error
    if not found:
        where = f" in namespace {namespace}" if namespace else ""
        what = f"of a workload called {workload}" if workload else ""
        raise UsageError(f"there is no VLLMRecommendation {what}{where}".replace("  ", " "))
    if as_json:
        print(json.dumps([_as_json(one) for one in found], indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH_WITHOUT_TERMINAL
    console.print(_table(found))
    for one in found:
        if one.then is None:
            console.print(f"{one.key}: nothing would be recommended: {one.reason}", highlight=False)


def _change(store: ObjectReader, policy: str | None, settings: Sequence[str]) -> Callable[[PolicySpec], PolicySpec]:
    fixed = None if policy is None else _policy(store, policy)
    changes = [_setting(text) for text in settings]

    def change(own: PolicySpec) -> PolicySpec:
        spec = (fixed or own).to_json()
        for path, value in changes:
            *parents, last = path
            holder: dict[str, Any] = spec
            for parent in parents:
                holder = holder.setdefault(parent, {})
            holder[last] = value
        return PolicySpec.model_validate(spec)

    try:
        change(PolicySpec())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"--set {field}: {first['msg']}") from error
    return change


def _policy(store: ObjectReader, name: str) -> PolicySpec:
    raw = store.get(VLLMPolicy.KIND, None, name)
    if raw is None:
        there = ", ".join(sorted(one["metadata"]["name"] for one in store.list(VLLMPolicy.KIND))) or "none"
        raise UsageError(f"there is no VLLMPolicy {name}; there is: {there}")
    try:
        return VLLMPolicy.from_json(raw).spec
    except InvalidObjectError as error:
        raise UsageError(str(error)) from error


def _setting(text: str) -> tuple[list[str], Any]:
    name, equals, value = text.partition("=")
    if not equals or not all(name.split(".")):
        raise UsageError(f"--set {text} is no FIELD=VALUE, such as hitRateLoss.points=2")
    try:
        return name.split("."), json.loads(value)
    except ValueError:
        return name.split("."), value


def _table(found: Sequence[Comparison]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in (
        "workload",
        "own pool",
        "now",
        "what if",
        "difference",
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
            f"{_percent(one.now)} → {_percent(one.then)}",
            one.then.bound_by if one.then else "",
            _risk(one),
        )
    return table


def _difference(one: Comparison) -> str:
    if one.then is None:
        return ""
    difference = one.then.kv_bytes - (one.now.kv_bytes if one.now else one.own_bytes)
    return f"{'-' if difference < 0 else '+'}{format_bytes(abs(difference))}"


def _percent(outcome: Outcome | None) -> str:
    return f"{outcome.hit_rate:.2%}" if outcome else "–"


def _risk(one: Comparison) -> str:
    if one.then is None:
        return ""
    return f"{one.then.parts_over} of {one.parts} parts, {one.then.intervals_over} of {one.intervals} peaks"


def _as_json(one: Comparison) -> dict[str, Any]:
    key = one.key
    return {
        "namespace": key.namespace,
        "kind": key.workload.kind,
        "name": key.workload.name,
        "container": key.container,
        "ownBytes": one.own_bytes,
        "parts": one.parts,
        "intervals": one.intervals,
        "now": _outcome(one.now),
        "then": _outcome(one.then),
        "reason": one.reason,
    }


def _outcome(outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    head = {"kv_bytes": "kvBytes", "allocation_bytes": "allocationBytes", "bound_by": "boundBy", "hit_rate": "hitRate"}
    rest = {"lost_points": "lostPoints", "parts_over": "partsOver", "intervals_over": "intervalsOver"}
    fields = dataclasses.asdict(outcome)
    return {spelt: fields[name] for name, spelt in (head | rest).items()}
