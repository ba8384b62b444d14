"""`vllm-rightsizer plan`: which engines fit together on which GPUs, as tables and as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recommender.api.scopes import Scope
from recommender.api.units import format_bytes
from recommender.discovery import census_of
from recommender.packing_plans import AFTER, Engine, Plan, Scenario, Stock, plan_of
from recommender.plan_documents import plan_json
from recommender.prices import NodePrices, Prices, PricesError, Unpriced, read_price_map
from vllm_rightsizer.errors import UsageError, UserError
from vllm_rightsizer.output import write_document
from vllm_rightsizer.reading import Source, read_fleet
from vllm_rightsizer.reading_options import Output
from vllm_rightsizer.tables import show, table

_WIDTH_WITHOUT_TERMINAL = 160


def print_plan(source: Source, prices: Path | None, opencost: str | None, *, scope: Scope, output: Output) -> None:
    """Print the plan for the pods of `source` in namespaces of `scope`, priced by the map in `prices` and the API at
    `opencost`, where given."""
    try:
        own = Prices(read_price_map(prices) if prices is not None else None)
    except PricesError as error:
        raise UsageError(str(error)) from error
    objects = read_fleet(source)
    costs = own if opencost is None else own.with_nodes(_asked(opencost))
    plan = plan_of(objects, costs, census_of(objects, scope))
    if output is not Output.TEXT:
        write_document(plan_json(plan), as_yaml=output is Output.YAML)
        return
    show(lambda console: _print(console, plan), _WIDTH_WITHOUT_TERMINAL)


def _asked(url: str) -> NodePrices:
    # What speaks HTTP takes a while to be brought in.
    from recommender.opencost import OpenCostError, OpenCostSettings, ask

    try:
        return asyncio.run(ask(OpenCostSettings(url)))
    except OpenCostError as error:
        raise UserError(str(error)) from error


def _print(console: Console, plan: Plan) -> None:
    if not plan.stocks:
        console.print("There are no GPUs to plan with: no pod that runs vLLM holds one on a node whose labels tell it.")
    for stock in plan.stocks:
        console.print(f"[bold]{escape(stock.product)}[/], {format_bytes(stock.memory_bytes)} each", highlight=False)
        console.print(_summary(stock))
        console.print()
        same = stock.bankable == stock.potential
        for scenario in AFTER[1:] if same else AFTER:
            console.print(_cards(stock, scenario))
            console.print()
        if any(engine.profile is not None for engine in stock.engines):
            console.print(_profiles(stock.engines))
            console.print()
    for one in plan.left_out:
        console.print(f"{one.name} is in no plan: {one.reason}", highlight=False, markup=False)


def _summary(stock: Stock) -> Table:
    rows = table("", "GPUs", "freed", "nodes freed", "worth a month")
    rows.add_row("now", str(len(stock.now.used)), "", "", "")
    meanings = {"bankable": "as schedulers are asked", "potential": "if all asked for their share"}
    for scenario in AFTER:
        rows.add_row(
            f"{scenario}: {meanings[scenario]}",
            str(len(stock.packing(scenario).used)),
            str(stock.freed(scenario)),
            ", ".join(stock.freed_nodes(scenario)) or "–",
            _month(stock, scenario),
        )
    rows.add_row("no packing has fewer than", str(stock.least), "", "", "")
    return rows


def _month(stock: Stock, scenario: Scenario) -> str:
    worth = stock.month(scenario)
    if isinstance(worth, Unpriced):
        return f"unknown: {worth.reason}"
    return f"{worth.amount:.2f} {worth.currency}, prices of {worth.day}"


def _cards(stock: Stock, scenario: Scenario) -> Table:
    rows = table("node", "GPU", "left", "engines", title=f"Together on one GPU: {scenario}")
    engines = {engine.name: engine for engine in stock.engines}
    packing = stock.packing(scenario)
    for node, index in sorted(packing.used):
        names = packing.tenants[node, index]
        needs = [engines[name].need_bytes(scenario) for name in names]
        left = stock.memory_bytes - sum(need for need in needs if need is not None)
        shown = [
            f"{name} whole" if need is None else f"{name} {format_bytes(need)}"
            for name, need in zip(names, needs, strict=True)
        ]
        rows.add_row(node, str(index), "–" if None in needs else format_bytes(left), escape(", ".join(shown)))
    return rows


def _profiles(engines: Sequence[Engine]) -> Table:
    rows = table("engine", "needs", "MIG profile", "of the compute", title="Slices that would hold them")
    for engine in engines:
        if engine.profile is not None and engine.potential_bytes is not None:
            profile = engine.profile
            compute = f"{profile.compute}/{profile.most_compute}"
            rows.add_row(escape(engine.name), format_bytes(engine.potential_bytes), profile.name, compute)
    return rows
