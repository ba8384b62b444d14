"""OpenCost's prices, asked of a real HTTP server whose answers have the shape of OpenCost's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from synthetic import served

from recommender import opencost
from recommender.gpu_nodes import GpuNode
from recommender.opencost import OpenCost, OpenCostError, OpenCostSettings, ask, gpu_hour_prices
from recommender.prices import NodePrices, Price, PriceMap, Prices

H100 = GpuNode("gpu-a", "NVIDIA-H100-80GB-HBM3", 8, 80 << 30, "p5.48xlarge", "us-east-1")


def node(name: str, gpu_cost: Any = 384.0, gpu_hours: Any = 192.0, cluster: str = "cluster-one") -> dict[str, Any]:
    """As `core/pkg/opencost/asset_json.go` writes a Node, with what is of no use here left in."""
    return {
        "type": "Node",
        "properties": {"category": "Compute", "service": "Kubernetes", "cluster": cluster, "name": name},
        "labels": {"label_nvidia_com_gpu_product": "NVIDIA-H100-80GB-HBM3"},
        "window": {"start": "2026-11-20T00:00:00Z", "end": "2026-11-21T00:00:00Z"},
        "start": "2026-11-20T00:00:00Z",
        "end": "2026-11-21T00:00:00Z",
        "minutes": 1440.0,
        "nodeType": "p5.48xlarge",
        "cpuCores": 192.0,
        "cpuCoreHours": 4608.0,
        "GPUHours": gpu_hours,
        "cpuBreakdown": {"idle": 0.9, "other": 0, "system": 0, "user": 0.1},
        "preemptible": 0.0,
        "discount": 0.3,
        "cpuCost": 120.5,
        "gpuCost": gpu_cost,
        "gpuCount": 8.0,
        "ramCost": 70.25,
        "adjustment": 0.0,
        "totalCost": 517.5,
    }


DISK = {"type": "Disk", "properties": {"name": "gpu-a", "cluster": "cluster-one"}, "gpuCost": 1, "GPUHours": 1}


def answered(*assets: dict[str, Any]) -> dict[str, Any]:
    return {"code": 200, "status": "success", "data": {f"asset-{index}": one for index, one in enumerate(assets)}}


def test_what_a_gpu_of_each_node_costs() -> None:
    answer = answered(node("gpu-a"), node("gpu-b", 10.0, 4.0), DISK, node("cpu-only", 0.0, 0.0))
    assert gpu_hour_prices(answer) == {"gpu-a": 2.0, "gpu-b": 2.5}
    # Kubecost gives a list, of a window over two days one set each.
    days = {"code": 200, "data": [{"a": node("gpu-a", 10.0, 10.0)}, {"a": node("gpu-a", 30.0, 10.0)}]}
    assert gpu_hour_prices(days) == {"gpu-a": 2.0}


@pytest.mark.parametrize(
    "asset",
    [
        node("gpu-a", gpu_cost=float("nan")),
        node("gpu-a", gpu_cost=-3.0),
        node("gpu-a", gpu_cost="many"),
        node("gpu-a", gpu_cost=True),
        node("gpu-a", gpu_hours=float("inf")),
        node("gpu-a", gpu_hours=None),
        node("gpu-a", gpu_cost=1e300, gpu_hours=1e-300),
        {**node("gpu-a"), "properties": None},
        {**node("gpu-a"), "properties": {"name": ""}},
    ],
)
def test_no_price_is_made_of_nonsense(asset: dict[str, Any]) -> None:
    assert gpu_hour_prices(answered(asset)) == {}


def test_a_name_that_two_clusters_have_is_nobodys() -> None:
    assert gpu_hour_prices(answered(node("gpu-a"), node("gpu-a", cluster="cluster-two"))) == {}


def test_it_comes_after_the_users_own_map_and_before_the_table() -> None:
    found = NodePrices({"gpu-a": 2.0}, datetime(2026, 11, 21, tzinfo=UTC).date(), "OpenCost at here")
    own = PriceMap.model_validate({"date": "2026-11-01", "currency": "EUR", "namespaces": {"chat": 1.5}})
    prices = Prices(own).with_nodes(found)
    assert priced(prices, "chat", H100).source == "own price of namespace chat"
    price = priced(prices, "code", H100)
    assert (price.per_hour, price.currency, str(price.day), price.source) == (
        2.0,
        "EUR",
        "2026-11-21",
        "OpenCost at here",
    )
    other = GpuNode("gpu-z", H100.product, 8, 80 << 30, H100.instance_type, H100.region)
    assert "on-demand" in priced(Prices().with_nodes(found), "code", other).source.lower()


def priced(prices: Prices, namespace: str, where: GpuNode) -> Price:
    price = prices.price(namespace, where)
    assert isinstance(price, Price)
    return price


async def test_it_is_asked_over_http() -> None:
    before = datetime.now(UTC).date()
    with served(lambda: json.dumps(answered(node("gpu-a"))).encode()) as port:
        found = await ask(OpenCostSettings(f"http://user:secret@127.0.0.1:{port}/"))
    assert found.per_hour == {"gpu-a": 2.0}
    assert found.source == f"OpenCost at 127.0.0.1:{port}"
    assert before <= found.day <= datetime.now(UTC).date()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"<html>", 200, "cannot be asked: Expecting value"),
        (b"[]", 200, "is it OpenCost's API?"),
        (b'{"data": [1]}', 200, "is it OpenCost's API?"),
        (b"{}", 502, "answers with HTTP 502"),
        (b" " * 3000, 200, "longer than"),
    ],
)
async def test_what_is_no_answer(body: bytes, status: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencost, "LARGEST_ANSWER_BYTES", 2000)
    with served(lambda: body, status) as port, pytest.raises(OpenCostError) as error:
        await ask(OpenCostSettings(f"http://127.0.0.1:{port}"))
    assert said in str(error.value)


async def test_one_that_does_not_answer_in_time() -> None:
    def slow() -> bytes:
        time.sleep(0.3)
        return b""

    with served(slow) as port, pytest.raises(OpenCostError, match=r"does not answer within 0\.1 s"):
        await ask(OpenCostSettings(f"http://127.0.0.1:{port}", deadline_seconds=0.1))


async def test_what_it_said_goes_on_while_it_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps(answered(node("gpu-a"))).encode()
    said, asked = [good], [0]

    def answer() -> bytes:
        asked[0] += 1
        return said[0]

    with served(answer) as port:
        settings = OpenCostSettings(f"http://127.0.0.1:{port}", 0.01, 0.01)
        prices = OpenCost(settings)
        assert priced(prices(), "chat", H100).source.startswith("AWS")
        async with prices.running():
            await until(lambda: per_hour(prices) == 2.0)
            said[0] = b"gone"
            count = asked[0]
            await until(lambda: asked[0] > count + 3)
            assert per_hour(prices) == 2.0
            assert caplog.text.count("cannot be asked") == 1
            monkeypatch.setattr(opencost, "TRUSTED_SECONDS", 0.0)
            assert per_hour(prices) != 2.0
            monkeypatch.undo()
            said[0] = json.dumps(answered(node("gpu-a", 576.0))).encode()
            await until(lambda: per_hour(prices) == 3.0)


def per_hour(prices: OpenCost) -> float:
    return priced(prices(), "chat", H100).per_hour


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
