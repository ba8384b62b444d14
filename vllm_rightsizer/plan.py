"""`vllm-rightsizer plan`: which engines fit together on which GPUs, as tables and as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recommender.api.scopes import Scope, scope_of
from recommender.api.units import format_bytes
from recommender.discovery import census_of
from recommender.packing_plans import AFTER, Engine, Plan, Scenario, Stock, plan_of
from recommender.plan_documents import plan_json
from recommender.prices import NodePrices, Prices, PricesError, Unpriced, read_price_map
from vllm_rightsizer.doctor.facts import CONFIGURATION, service_of, webhooks_of
from vllm_rightsizer.errors import UsageError, UserError
from vllm_rightsizer.output import csv_of, write_document, write_out
from vllm_rightsizer.reading import RefusedSourceError, Source, read_configurations, read_fleet
from vllm_rightsizer.reading_options import Color, Output
from vllm_rightsizer.tables import Paper, show, table
from vllm_rightsizer.workload_names import Known, chosen

_WIDTH_WITHOUT_TERMINAL = 160


def print_plan(
    source: Source,
    prices: Path | None,
    opencost: str | None,
    scope: Scope | None,
    namespace: str | None,
    workload: str | None,
    output: Output,
    color: Color,
) -> None:
    """Print the plan for the pods of `source` in namespaces of `scope`, None for that of the webhook, priced by the map
    in `prices` and the API at `opencost`, where given. It is one of all pods; of `namespace` and `workload`, None for
    all, is only what is shown.
    """
    try:
        own = Prices(read_price_map(prices) if prices is not None else None)
    except PricesError as error:
        raise UsageError(str(error)) from error
    objects = read_fleet(source)
    costs = own if opencost is None else own.with_nodes(_asked(opencost))
    covered, servers = _covered(source, scope)
    plan = plan_of(objects, costs, census_of(objects, covered, servers))
    engines = _meant(plan, namespace, workload)
    if output is Output.CSV:
        write_out(csv_of(_lines(plan, engines)))
    elif not output.is_table:
        write_document(_document(plan, engines), as_yaml=output is Output.YAML)
    else:
        wide = output is Output.WIDE
        where = "" if namespace is None else f" in namespace {namespace}"
        nothing = f"no pod that runs vLLM{where} holds one on a node whose labels tell it, by --scope {covered}"
        show(
            lambda console: _print(console, plan, engines, nothing), Paper.of(color), _WIDTH_WITHOUT_TERMINAL, wide=wide
        )


def _covered(source: Source, scope: Scope | None) -> tuple[Scope, str | None]:
    """Which namespaces count, and the one that never does, that of our servers: as the webhook's configuration says,
    unless `scope` does."""
    try:
        configurations = read_configurations(source).list(CONFIGURATION)
    except RefusedSourceError as error:
        if scope is None:
            print(f"the scope is taken to be {Scope.OPT_IN}: {error}, or say it with --scope", file=sys.stderr)
        return scope or Scope.OPT_IN, None
    found = {
        (Scope.OPT_OUT if Scope.OPT_OUT in map(scope_of, webhooks) else Scope.OPT_IN, (service_of(raw) or (None,))[0])
        for raw in configurations
        if (webhooks := webhooks_of(raw))
    }
    if len(found) > 1:
        # One of a former installation may have stayed, whose servers are gone.
        names = ", ".join(sorted(str(raw["metadata"]["name"]) for raw in configurations if webhooks_of(raw)))
        if scope is None:
            contradiction = f"the MutatingWebhookConfigurations {names} contradict each other"
            print(f"the scope is taken to be {Scope.OPT_IN}: {contradiction}; say it with --scope", file=sys.stderr)
        return scope or Scope.OPT_IN, None
    covered, servers = next(iter(found), (Scope.OPT_IN, None))
    return scope or covered, servers


def _meant(plan: Plan, namespace: str | None, workload: str | None) -> frozenset[str] | None:
    """The names of the engines that are asked for, planned or left out; None for all."""
    if namespace is None and workload is None:
        return None
    keys = {engine.name: engine.key for stock in plan.stocks for engine in stock.engines}
    keys |= {one.name: one.key for one in plan.left_out}
    known = {name: Known(key) for name, key in keys.items() if namespace in (None, key.namespace)}
    if workload is None:
        return frozenset(known)
    found = chosen(workload, list(dict.fromkeys(known.values())), namespace)
    return frozenset(name for name, one in known.items() if one in found)


def _asked(url: str) -> NodePrices:
    # What speaks HTTP takes a while to be brought in.
    from recommender.opencost import OpenCostError, OpenCostSettings, ask

    try:
        return asyncio.run(ask(OpenCostSettings(url)))
    except OpenCostError as error:
        raise UserError(str(error)) from error


def _document(plan: Plan, engines: frozenset[str] | None) -> dict[str, Any]:
    """The plan's JSON, of `engines` alone; what is freed and what that is worth is that of all."""
    whole = plan_json(_part(plan, engines))
    if engines is not None:
        for scenario in (stock[name] for stock in whole["stocks"] for name in AFTER):
            scenario["cards"] = [card for card in scenario["cards"] if not engines.isdisjoint(_names(card))]
    return whole


def _lines(plan: Plan, engines: frozenset[str] | None) -> list[dict[str, Any]]:
    """A line for each engine on each of its GPUs, in both cases."""
    return [
        {
            "product": stock["product"],
            "scenario": scenario,
            "node": card["node"],
            "gpu": card["gpu"],
            "engine": engine["name"],
            "requestBytes": engine["requestBytes"],
        }
        for stock in _document(plan, engines)["stocks"]
        for scenario in AFTER
        for card in stock[scenario]["cards"]
        for engine in card["engines"]
    ]


def _names(card: Mapping[str, Any]) -> set[str]:
    return {engine["name"] for engine in card["engines"]}


def _part(plan: Plan, engines: frozenset[str] | None) -> Plan:
    """The stocks in which one of `engines` is, and of what is left out those that are; None for all."""
    if engines is None:
        return plan
    stocks = tuple(stock for stock in plan.stocks if any(engine.name in engines for engine in stock.engines))
    return Plan(stocks, tuple(one for one in plan.left_out if one.name in engines))


def _print(console: Console, plan: Plan, engines: frozenset[str] | None, nothing: str) -> None:
    shown = _part(plan, engines)
    if not shown.stocks:
        console.print(f"There are no GPUs to plan with: {nothing}.", highlight=False, markup=False)
    for stock in shown.stocks:
        console.print(f"[bold]{escape(stock.product)}[/], {format_bytes(stock.memory_bytes)} each", highlight=False)
        console.print(_summary(stock))
        console.print()
        same = stock.bankable == stock.potential
        for scenario in AFTER[1:] if same else AFTER:
            console.print(_cards(stock, scenario, engines))
            console.print()
        sliced = [one for one in stock.engines if one.profile is not None and (engines is None or one.name in engines)]
        if sliced:
            console.print(_profiles(sliced))
            console.print()
    for one in shown.left_out:
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


def _cards(stock: Stock, scenario: Scenario, shown: frozenset[str] | None) -> Table:
    rows = table("node", "GPU", "left", "engines", title=f"Together on one GPU: {scenario}")
    engines = {engine.name: engine for engine in stock.engines}
    packing = stock.packing(scenario)
    for node, index in sorted(packing.used):
        names = packing.tenants[node, index]
        if shown is not None and shown.isdisjoint(names):
            continue
        needs = [engines[name].need_bytes(scenario) for name in names]
        left = stock.memory_bytes - sum(need for need in needs if need is not None)
        tenants = [
            f"{name} whole" if need is None else f"{name} {format_bytes(need)}"
            for name, need in zip(names, needs, strict=True)
        ]
        rows.add_row(node, str(index), "–" if None in needs else format_bytes(left), escape(", ".join(tenants)))
    return rows


def _profiles(engines: Sequence[Engine]) -> Table:
    rows = table("engine", "needs", "MIG profile", "of the compute", title="Slices that would hold them")
    for engine in engines:
        if engine.profile is not None and engine.potential_bytes is not None:
            profile = engine.profile
            compute = f"{profile.compute}/{profile.most_compute}"
            rows.add_row(escape(engine.name), format_bytes(engine.potential_bytes), profile.name, compute)
    return rows
