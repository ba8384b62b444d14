"""The pages of the three programs, asked for as a scraper does, with all that each can have to say on them."""

from __future__ import annotations

import asyncio
import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from bench.lab.plugin_pods import PluginPod
from recommender.api.apiserver.connection import ApiServer
from recommender.api.recommendations import LossBudget, Money, Resolved, Savings
from recommender.api.scopes import Scope
from recommender.api.workloads import WorkloadRef
from recommender.autoscaling import Autoscaler
from recommender.consequences import Cost
from recommender.discovery import Missing, Pod
from recommender.keys import WorkloadKey
from recommender.kv_demands import KVDemand
from recommender.leading import Candidate
from recommender.probes import probes
from recommender.promql.client import PromqlTelemetry
from recommender.promql.directory import KnownPod
from recommender.promql.memories import Memories
from recommender.sources import in_folder
from recommender.standings import Memory, Standing
from recommender.telemetry import Telemetry
from recommender.terms import Terms
from recommender.trends import Point
from recommender.workload_figures import WorkloadFigures
from vllm_plugin.override import Outcome
from vllm_plugin.process import _with_identity
from webhook.app import Surroundings, create_app
from webhook.knowledge import Knowledge
from webhook.settings import InjectionSettings

ROOT = Path(__file__).parents[3]
ODD = 'a "quoted"\nname\\with é, 模型, a\rreturn and a\ttab'
"""A value of a label with all that can go wrong in one."""

Page = Callable[[Mapping[str, str]], httpx.Response]
"""The answer to a request with these headers."""


@contextmanager
def plugin() -> Iterator[Page]:
    """Of a pod whose model has an odd name, and whose path is no UTF-8."""

    class OddPod(PluginPod):
        def report(self) -> dict[str, Any]:
            report = super().report()
            report["loaded_from"] = "/lib/\udcff"
            for engine in report["engines"]:
                engine["info"] = _with_identity({}, None, Outcome())["info"] | {"model": ODD}
            for worker in report["workers"]:
                worker["reserved_bytes"] = 1 << 30
            return report

    pod = OddPod("llama-0", demand_blocks=600)
    pod.look_up([None, 1, 5000, 1500], requests=2)
    with pod.served() as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        yield lambda headers: client.get("/metrics", headers=headers)


@contextmanager
def webhook() -> Iterator[Page]:
    """After admissions of pods with odd names, and of what is no pod."""
    review = json.loads((ROOT / "deploy" / "examples" / "review.json").read_text())
    odd = copy.deepcopy(review)
    odd["request"]["namespace"] = odd["request"]["object"]["metadata"]["namespace"] = ODD
    odd["request"]["object"]["spec"]["containers"][0]["args"] = ["--model", ODD]
    around = Surroundings(ages=lambda: {"Namespace": 1.0})
    with TestClient(create_app(Knowledge, InjectionSettings(), around)) as client:
        for body in (review, odd, {"request": {"uid": ODD}}, ODD):
            client.post("/mutate", json=body)
        yield lambda headers: client.get("/metrics", headers=headers)


@contextmanager
def recommender() -> Iterator[Page]:
    """Of a fleet that has all figures, with prices in an odd currency and an odd namespace that nobody could make."""
    with TestClient(probes(_fleet(), lambda: None, lambda: None)) as client:
        yield lambda headers: client.get("/metrics", headers=headers)


@cache
def _fleet() -> CollectorRegistry:
    telemetry = Telemetry()
    registry = telemetry.registry
    promql, memories = PromqlTelemetry(registry), Memories()
    registry.register(memories)
    Terms(in_folder(ROOT / "deploy" / "examples" / "cluster", Scope.OPT_IN), telemetry, lambda _: nullcontext())
    Candidate(asyncio.run(_server()), "vllm-rightsizer", lambda: True, registry)
    keys = [WorkloadKey(space, WorkloadRef("apps", "Deployment", "llama"), "vllm") for space in ("chat", ODD)]

    telemetry.evaluations.labels("written").inc()
    telemetry.object_writes.labels("VLLMRecommendation", "written").inc()
    promql.queries.labels("ok").inc()
    promql.filled.labels("1800").set(1.7e9)
    telemetry.workloads.labels("true").set(2)
    telemetry.watch_age_seconds.labels("Pod").set(float("inf"))
    telemetry.kinds_refused.labels("Pod").set(0)
    telemetry.without_plugin([_pod(key, "NotAdmitted") for key in keys])
    telemetry.loss_budgets({key: _loss_budget() for key in keys})
    telemetry.kv_demands({key: KVDemand(1 << 30, 0.5, 0.25) for key in keys})
    telemetry.autoscaler_conflicts(dict.fromkeys(keys, (Autoscaler("ScaledObject", "busy", "kv_cache_usage_perc"),)))
    amounts = {"bankablePerMonth": 1.5, "potentialPerMonth": 0, "gpuHour": 2}
    money = Money.model_validate({**amounts, "currency": ODD, "pricedAt": "2026-01-01", "source": "a test"})
    telemetry.savings({key: Savings(bytes=1, share_of_pool=0.5, money=money) for key in keys})
    pools = dict.fromkeys(("own", "today", "recommended"), 1 << 30)
    point = Point(1 << 30, 1 << 30, 1 << 30, 1 << 30)
    rates = dict.fromkeys(pools, 0.75)
    on, cost = Resolved(value="true", source="workload"), Cost(1.5, ODD)
    shown = WorkloadFigures(point, 0.75, pools, rates, {"Recommended": "True"}, on, ODD, cost)
    telemetry.figures.workloads = dict.fromkeys(keys, shown)
    telemetry.figures.pods = [_pod(key) for key in keys]
    telemetry.figures.allocatable_bytes = 80 << 30
    memories.show([KnownPod(key, "llama-0", "uid", "f") for key in keys], keys)
    for key in keys:
        memories.remember(Memory(key, "f", "p", 0, 1 << 30, 1, Standing(1 << 30, 1 << 30, "p"), 1))
    memories.note_policies({"default": json.dumps({"mode": ODD})})
    return registry


async def _server() -> ApiServer:
    """One that nobody asks."""
    named = {"name": "none"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "none",
        "clusters": [{**named, "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{**named, "user": {}}],
        "contexts": [{**named, "context": {"cluster": "none", "user": "none"}}],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config, file)
        file.flush()
        return await ApiServer.connect(Path(file.name))


def _loss_budget() -> LossBudget:
    return LossBudget.model_validate(
        {
            "periodStart": "2026-01-01T00:00:00Z",
            "budgetTokens": 100,
            "spentTokens": 25,
            "projectedTokens": 50,
            "restartTokens": 5,
        }
    )


def _pod(key: WorkloadKey, missing: str | None = None) -> Pod:
    why = Missing(missing, "") if missing else None
    return Pod(key, "llama-0", "uid", "f", ("127.0.0.1", 1), 0, True, False, None, {}, missing=why)


PAGES = {"plugin": plugin, "recommender": recommender, "webhook": webhook}
