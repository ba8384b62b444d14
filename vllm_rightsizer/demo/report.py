"""The demo's result as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recommender.api.units import format_bytes
from vllm_rightsizer.demo.results import Measurement, Result


def write_json(result: Result, path: Path) -> None:
    path.write_text(json.dumps(result.to_json(), indent=2) + "\n")


def print_result(console: Console, result: Result) -> bool:
    """Print the table and the checks; whether all of them passed."""
    console.print(_table(result))
    given_back = f"{format_bytes(result.reclaimed_bytes)}, {result.reclaimed_share:.0%} of the pool"
    console.print(f"[bold green]given back: {given_back}[/]\n", highlight=False)
    checks = result.checks()
    for check in checks:
        mark = "[green]✓[/]" if check.passed else "[bold red]✗[/]"
        console.print(f"  {mark} {check.claim} [dim]({check.figures})[/]", highlight=False, soft_wrap=True)
    return all(check.passed for check in checks)


def _table(result: Result) -> Table:
    before, after, target = result.before, result.after, result.target
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("")
    for column in ("before", "predicted", "after"):
        table.add_column(column, justify="right")

    def measured(name: str, show: Callable[[Measurement], str], predicted: str = "") -> None:
        table.add_row(name, show(before), f"[dim]{predicted}[/]", show(after))

    measured("weights", lambda one: format_bytes(one.plugin.weights_bytes))
    measured("overhead", lambda one: format_bytes(one.plugin.overhead_bytes))
    measured("KV pool", lambda one: format_bytes(one.pool_bytes), format_bytes(target.kv_bytes))
    measured("  active, peak", lambda one: format_bytes(one.plugin.active_peak_bytes))
    measured("  headroom", lambda one: format_bytes(one.plugin.headroom_bytes))
    measured("allocation", lambda one: format_bytes(one.plugin.allocated_bytes), format_bytes(target.allocation_bytes))
    measured("prefix hit rate", lambda one: f"{one.hit_rate:.2%}", f"{result.predicted_hit_rate:.2%}")
    measured("preemptions", lambda one: str(one.preemptions))
    measured("requests a second", lambda one: f"{one.requests_per_second:.1f}")
    return table
