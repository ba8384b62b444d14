"""A plan as one JSON object, the same for the command line and the API."""

from __future__ import annotations

from typing import Any

from recommender.packing_plans import AFTER, Plan, Scenario, Stock, Worth
from recommender.prices import Unpriced


def plan_json(plan: Plan) -> dict[str, Any]:
    """As `plan -o json` and the API show it."""
    return {
        "stocks": [_stock_json(stock) for stock in plan.stocks],
        "leftOut": [{"name": one.name, "reason": one.reason} for one in plan.left_out],
    }


def _stock_json(stock: Stock) -> dict[str, Any]:
    return {
        "product": stock.product,
        "gpuMemoryBytes": stock.memory_bytes,
        "gpus": len(stock.now.used),
        "leastGPUs": stock.least,
        **{scenario: _scenario_json(stock, scenario) for scenario in AFTER},
        "migProfiles": {engine.name: engine.profile.name for engine in stock.engines if engine.profile is not None},
    }


def _scenario_json(stock: Stock, scenario: Scenario) -> dict[str, Any]:
    packing = stock.packing(scenario)
    needs = {engine.name: engine.need_bytes(scenario) for engine in stock.engines}
    return {
        "gpus": len(packing.used),
        "freedGPUs": stock.freed(scenario),
        "freedNodes": list(stock.freed_nodes(scenario)),
        **_money_json(stock.month(scenario)),
        "cards": [
            {
                "node": node,
                "gpu": index,
                "engines": [{"name": name, "requestBytes": needs[name]} for name in packing.tenants[node, index]],
            }
            for node, index in sorted(packing.used)
        ],
    }


def _money_json(worth: Worth | Unpriced) -> dict[str, Any]:
    if isinstance(worth, Unpriced):
        return {"worthPerMonth": None, "noPrice": worth.reason}
    return {"worthPerMonth": worth.amount, "currency": worth.currency, "pricedAt": worth.day.isoformat()}
