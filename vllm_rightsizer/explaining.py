"""`vllm-rightsizer explain`: every sample, rule and bound of one recommendation, for people and as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recommender.api.object_store import ObjectReader
from recommender.api.objects import InvalidObjectError
from recommender.api.recommendations import EstimatedPool, RecommendationStatus, Savings, VLLMRecommendation
from recommender.api.units import format_bytes
from recommender.explanations import Explanation, IntervalRow, explanation_of, explanation_of_status
from recommender.history import HistoryReader
from recommender.history_files import HistoryError
from vllm_rightsizer.errors import UserError
from vllm_rightsizer.output import csv_of, write_document, write_out
from vllm_rightsizer.reading import RefusedSourceError, Source, read_recommendations, read_sizes
from vllm_rightsizer.reading_options import Color, Output
from vllm_rightsizer.tables import Paper, show, table
from vllm_rightsizer.workload_names import known_of, one_of

_WIDTH_WITHOUT_TERMINAL = 200
_CHANGES_SHOWN = 12
_NOT_WHOLE = (
    "Samples, guards, the curve and what happened before come from the recommender's history: give that file, or a "
    "copy, with --history, or ask the recommender's HTTP API."
)


def print_explanation(
    source: Source, history: Path | None, namespace: str | None, workload: str, output: Output, color: Color
) -> None:
    """Print why what is recommended for `workload`, of `namespace` or that of the context, is what it is; without
    `history` as far as its status says."""
    namespace = namespace or source.namespace
    objects, with_policies = _read(source, namespace)
    found = one_of(workload, known_of(objects.list(VLLMRecommendation.KIND, namespace)), namespace)
    try:
        explanation = _explanation(objects, history, namespace, str(found.recommendation))
    except InvalidObjectError as error:
        raise UserError(f"{error}: the recommender writes it anew; where it does not, its log says why") from error
    except HistoryError as error:
        raise UserError(str(error)) from error
    if not with_policies:
        # It would say that there is none.
        explanation = replace(explanation, policy_fault=None)
    if output is Output.CSV:
        write_out(csv_of(explanation.to_json()["intervals"]))
    elif not output.is_table:
        write_document(explanation.to_json(), as_yaml=output is Output.YAML)
    else:
        show(
            lambda console: _print(console, explanation, whole=history is not None),
            Paper.of(color),
            _WIDTH_WITHOUT_TERMINAL,
            wide=output is Output.WIDE,
        )


def _read(source: Source, namespace: str) -> tuple[ObjectReader, bool]:
    """Recommendations and policies; and whether policies are among them. Whoever may see one namespace alone goes
    without. Raises `UserError`."""
    try:
        return read_sizes(source, namespace), True
    except RefusedSourceError as error:
        objects = read_recommendations(source, namespace)
        print(f"the policy is not shown: {error}", file=sys.stderr)
        return objects, False


def _explanation(objects: ObjectReader, history: Path | None, namespace: str, name: str) -> Explanation:
    recommendation = VLLMRecommendation.from_json(objects.get(VLLMRecommendation.KIND, namespace, name) or {})
    if history is None:
        return explanation_of_status(objects, recommendation)
    with HistoryReader.open(history) as opened:
        return explanation_of(objects, opened, recommendation)


def _print(console: Console, explanation: Explanation, *, whole: bool) -> None:
    recommendation = explanation.recommendation
    status, reference = recommendation.status, recommendation.spec.target_ref
    console.print(
        f"[bold]{reference.kind} {reference.name}[/], container {reference.container}, "
        f"in {recommendation.metadata.namespace}, as of {explanation.at}",
        highlight=False,
    )
    if status.estimated is not None:
        console.print(f"[yellow]{escape(_estimate(status.estimated))}[/]", highlight=False)
    if status.target is None:
        console.print("Nothing is recommended.")
    else:
        console.print(
            f"Recommended: [bold]{format_bytes(status.target.kv_bytes)}[/] of KV cache, "
            f"{status.target.kv_blocks} blocks; decided by [bold]{explanation.decided_by}[/]",
            highlight=False,
        )
        console.print(f"  {' '.join(status.target.flags)}", highlight=False)
    if explanation.decision:
        console.print(f"  {escape(explanation.decision)}", highlight=False)
    if explanation.policy_fault:
        console.print(f"[red]Policy: {escape(explanation.policy_fault)}[/]")
    if status.max_model_len_advice is not None:
        console.print(f"  {escape(status.max_model_len_advice.message)}", highlight=False)
    _savings(console, status)
    _would_change(console, status)
    _changes(console, explanation)
    _data(console, status)
    _settings(console, explanation)
    _guards(console, explanation)
    _bounds(console, explanation)
    _loss_budget(console, explanation)
    _curve(console, explanation)
    _samples(console, explanation)
    _conditions(console, explanation)
    if not whole:
        console.print(f"\n[dim]{_NOT_WHOLE}[/]", highlight=False)


def _estimate(estimated: EstimatedPool) -> str:
    return (
        f"Estimated, not measured: {estimated.samples} looks at vLLM's own metrics since {estimated.since:%F %R} UTC "
        f"say that {estimated.kv_low_blocks} to {estimated.kv_high_blocks} of {estimated.kv_pool_blocks} blocks "
        f"({estimated.kv_block_tokens} tokens each) are needed, with probability {estimated.confidence:.2f}. "
        "It is never applied."
    )


def _savings(console: Console, status: RecommendationStatus) -> None:
    savings = status.savings
    if savings is None:
        return
    columns = ("", "of each GPU", "of all pods, in GPUs")
    money = savings.money
    rows = table(
        *columns, f"{money.currency} a month, prices of {money.priced_at}" if money else "money", title="Savings"
    )
    none = "unknown" if money is None else ""
    for name, size, gpus, month in (
        (
            "bankable: others can be placed there",
            savings.bankable_bytes,
            savings.bankable_gpus,
            money.bankable_per_month if money else None,
        ),
        (
            "potential: free, and promised to the pods",
            savings.potential_bytes,
            savings.potential_gpus,
            money.potential_per_month if money else None,
        ),
    ):
        rows.add_row(name, format_bytes(size), f"{gpus:.2f}", none if month is None else f"{month:.2f}")
    _print_rows(console, rows)
    why = _why_this_money(savings)
    if why:
        console.print(f"  {escape(why)}", highlight=False)


def _why_this_money(savings: Savings) -> str | None:
    if savings.money is None:
        return f"No price: {savings.no_price}" if savings.no_price else None
    return f"{savings.money.gpu_hour:g} {savings.money.currency} for an hour of a GPU: {savings.money.source}"


def _would_change(console: Console, status: RecommendationStatus) -> None:
    if status.would_change is None:
        return
    console.print("\n[bold]Dry run: what would change in a pod[/]")
    for line in status.would_change:
        console.print(escape(line), highlight=False)


def _settings(console: Console, explanation: Explanation) -> None:
    status = explanation.recommendation.status
    rows = table("", "value", "from", title="Settings")
    for name, resolved in (("automation", status.automation), ("policy", status.policy)):
        if resolved is not None:
            rows.add_row(name, resolved.value, resolved.source)
    if explanation.policy is not None:
        for name, value in explanation.policy.to_json().items():
            rows.add_row(f"  {name}", json.dumps(value) if isinstance(value, dict) else str(value), "")
    _print_rows(console, rows)


def _changes(console: Console, explanation: Explanation) -> None:
    """What changed since when, and what was applied when: the newest last."""
    rows = table("at", "", "", title="What happened")
    for change in explanation.changes[-_CHANGES_SHOWN:]:
        at = datetime.fromtimestamp(change.at, UTC)
        rows.add_row(f"{at:%Y-%m-%d %H:%M:%S} UTC", change.reason, escape(change.note))
    _print_rows(console, rows)
    before = explanation.before
    if before is not None:
        size = "nothing" if before.kv_bytes is None else f"{format_bytes(before.kv_bytes)} by {before.bound_by}"
        said = f"Before the present size: {size}; policy {before.policy}, automation {before.automation}"
        console.print(said, highlight=False, markup=False)


def _data(console: Console, status: RecommendationStatus) -> None:
    """From which samples it was made."""
    coverage = status.coverage
    if coverage is None or coverage.first_sample is None or coverage.last_sample is None:
        return
    console.print(
        f"\nMade from {coverage.samples} samples, {coverage.first_sample:%Y-%m-%d %H:%M:%S} to "
        f"{coverage.last_sample:%Y-%m-%d %H:%M:%S} UTC: {coverage.covered_seconds:.0f} of "
        f"{coverage.window_seconds:.0f} s of the window are covered, {coverage.percent:.1f} %",
        highlight=False,
    )


def _guards(console: Console, explanation: Explanation) -> None:
    rows = table("", "", "", title="Guards: without these nothing is made smaller")
    for guard in explanation.guards:
        rows.add_row("[green]✓[/]" if guard.passed else "[red]✗[/]", guard.name, escape(guard.message))
    _print_rows(console, rows)


def _bounds(console: Console, explanation: Explanation) -> None:
    before = explanation.before
    rows = table("", "KV cache", "before", "why", title="Bounds")
    for bound in explanation.recommendation.status.bounds:
        mark = "[bold]" if bound.name == explanation.decided_by else ""
        then = before.bounds.get(bound.name) if before is not None else None
        rows.add_row(
            f"{mark}{bound.name}",
            f"{mark}{format_bytes(bound.kv_bytes)}",
            "" if then is None else format_bytes(then),
            escape(bound.message),
        )
    if explanation.candidates:
        least, most = format_bytes(min(explanation.candidates)), format_bytes(max(explanation.candidates))
        count = len(explanation.candidates)
        rows.add_row(
            "asked for lately", f"{least} to {most}", "", f"what the last {count} evaluations came to by themselves"
        )
    _print_rows(console, rows)


def _loss_budget(console: Console, explanation: Explanation) -> None:
    account = explanation.recommendation.status.loss_budget
    if account is None:
        return
    rows = table("", "tokens", "", title=f"Loss budget of the day that began {account.period_start:%Y-%m-%d %H:%M} UTC")
    for name, tokens in (
        ("budget", account.budget_tokens),
        ("spent", account.spent_tokens),
        ("of that by restarts", account.restarted_tokens),
        ("projected", account.projected_tokens),
        ("a restart costs", account.restart_tokens),
    ):
        rows.add_row(name, str(tokens), f"{tokens / account.budget_tokens:.0%}" if account.budget_tokens else "")
    _print_rows(console, rows)


def _curve(console: Console, explanation: Explanation) -> None:
    rows = table("KV cache", "hit rate", "loss, points", title="Hit rate by size of the KV cache")
    for point in explanation.curve:
        rows.add_row(format_bytes(point.kv_bytes), f"{point.hit_rate:.2%}", f"{100 * point.loss:.2f}")
    _print_rows(console, rows)


def _samples(console: Console, explanation: Explanation) -> None:
    columns = ("from", "observed", "samples", "pool", "active", "demand", "requests", "tokens", "hits", "preempted")
    for pod, engine in sorted({(row.pod, row.engine) for row in explanation.intervals}):
        rows = table(*columns, "blocked", title=f"Intervals of pod {pod}, engine {engine}")
        for row in explanation.intervals:
            if (row.pod, row.engine) == (pod, engine):
                rows.add_row(*_cells(row))
        _print_rows(console, rows)


def _cells(row: IntervalRow) -> tuple[str, ...]:
    return (
        row.start,
        f"{row.covered_seconds:.0f} of {row.seconds:.0f} s",
        str(row.samples),
        format_bytes(row.kv_capacity_bytes),
        format_bytes(row.kv_active_peak_bytes),
        format_bytes(row.kv_demand_peak_bytes),
        str(row.requests),
        str(row.lookup_tokens),
        f"{row.hit_tokens / row.lookup_tokens:.1%}" if row.lookup_tokens else "",
        str(row.preemptions),
        str(row.admissions_blocked),
    )


def _conditions(console: Console, explanation: Explanation) -> None:
    rows = table("", "", "reason", "message", title="Conditions")
    for condition in explanation.recommendation.status.conditions:
        rows.add_row(condition.type, condition.status, condition.reason, escape(condition.message))
    _print_rows(console, rows)


def _print_rows(console: Console, rows: Table) -> None:
    if rows.row_count:
        console.print()
        console.print(rows)
