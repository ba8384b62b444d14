"""What an hour of a GPU costs, and where nobody knows."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from recommender.gpu_nodes import GpuNode, gpu_node
from recommender.prices import Price, PriceFile, PriceMap, Prices, PricesError, Unpriced, read_price_map

H100 = GpuNode("n1", "NVIDIA-H100-80GB-HBM3", 8, 80 << 30, "p5.48xlarge", "us-east-1")
OWN = PriceMap.model_validate(
    {
        "date": "2026-11-01",
        "currency": "USD",
        "namespaces": {"chat": 1.5},
        "instanceTypes": {"p5.48xlarge": 4.25},
        "products": {"NVIDIA-H100-80GB-HBM3": 3, "NVIDIA-L4": 0.5},
    }
)


@pytest.mark.parametrize(
    ("own", "namespace", "node", "per_hour", "day"),
    [
        (OWN, "chat", H100, 1.5, date(2026, 11, 1)),
        (OWN, "chat", None, 1.5, date(2026, 11, 1)),
        (OWN, "code", H100, 4.25, date(2026, 11, 1)),
        (OWN, "code", GpuNode("n2", "NVIDIA-H100-80GB-HBM3"), 3, date(2026, 11, 1)),
        (OWN, "code", GpuNode("n3", "NVIDIA-A10G", 1, 0, "g5.xlarge", "us-east-1"), 1.006, date(2026, 7, 20)),
        (None, "code", H100, 55.04 / 8, date(2026, 7, 20)),
    ],
)
def test_the_most_particular_price_wins(
    own: PriceMap | None, namespace: str, node: GpuNode | None, per_hour: float, day: date
) -> None:
    price = Prices(own).price(namespace, node)
    assert isinstance(price, Price)
    assert price.per_hour == pytest.approx(per_hour)
    assert (price.currency, price.day) == ("USD", day)


@pytest.mark.parametrize(
    ("own", "node", "why"),
    [
        (None, None, "run on no known node"),
        (None, GpuNode("n1", "NVIDIA-H100-80GB-HBM3", 8, 0, "a3-highgpu-8g", "us-central1"), "a3-highgpu-8g with"),
        (None, GpuNode("n1", "NVIDIA-H100-80GB-HBM3", 8), "NVIDIA-H100-80GB-HBM3 is in no table"),
        (None, GpuNode("n1"), "node n1, of which no label tells the instance type or the product, is in no table"),
        (None, GpuNode("n1", "NVIDIA-A10G", 1, 0, "g5.xlarge", "eu-west-1"), "known in us-east-1 only"),
        (None, GpuNode("n1", "NVIDIA-A10G", 1, 0, "g5.xlarge"), "an unknown region"),
        (PriceMap(date=date(2026, 11, 1), currency="EUR"), H100, "the table is in USD"),
    ],
)
def test_no_price_is_guessed(own: PriceMap | None, node: GpuNode | None, why: str) -> None:
    price = Prices(own).price("code", node)
    assert isinstance(price, Unpriced)
    assert why in price.reason


def test_a_month() -> None:
    assert Price(2.0, "USD", date(2026, 1, 1), "").month(1.5) == 2190.0


def test_the_map_as_yaml_and_as_json(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text("date: 2026-11-01\nproducts:\n  NVIDIA-L4: 0.5\n")
    (tmp_path / "prices.json").write_text(json.dumps({"date": "2026-11-01", "products": {"NVIDIA-L4": 0.5}}))
    assert read_price_map(tmp_path / "prices.yaml") == read_price_map(tmp_path / "prices.json")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("products: {NVIDIA-L4: 0.5}", "date: "),
        ("date: 2026-11-01\nproducts: {NVIDIA-L4: -1}", "products.NVIDIA-L4"),
        ("date: 2026-11-01\nprodukts: {}", "produkts"),
        ("date: 2026-11-01\nproducts: {NVIDIA-L4: .nan}", "NVIDIA-L4"),
        ("date: 2026-11-01\nproducts: {NVIDIA-L4: .inf}", "NVIDIA-L4"),
        ("date: 2026-02-30", "day is out of range"),
        ("date: 2026-11-01\nproducts: {[a]: 1}", "cannot be understood: keys must be"),
        ("date: 2026-11-01\nproducts: &a {b: *a}", "cannot be understood: Circular reference"),
        ("- 1", "cannot be understood"),
        ("a: [", "no YAML"),
        ("", "cannot be understood"),
    ],
)
def test_a_map_that_is_none(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(PricesError, match=r"prices\.yaml") as caught:
        read_price_map(path)
    assert why in str(caught.value)


def test_a_map_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match="cannot be read"):
        read_price_map(tmp_path / "nowhere.yaml")


def test_a_file_that_changes_while_we_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("date: 2026-11-01\nnamespaces: {chat: 1}\n")
    prices = PriceFile(path)
    per_hour = [_per_hour(prices)]
    for text in ("date: 2026-11-02\nnamespaces: {chat: 2.5}\n", "broken: ["):
        path.write_text(text)
        per_hour += [_per_hour(prices), _per_hour(prices)]
    path.unlink()
    assert [*per_hour, _per_hour(prices)] == [1, 2.5, 2.5, 2.5, 2.5, 2.5]
    assert caplog.text.count("the prices before go on") == 2
    with pytest.raises(PricesError):
        PriceFile(path)


def _per_hour(prices: PriceFile) -> float:
    price = prices().price("chat", None)
    assert isinstance(price, Price)
    return price.per_hour


@pytest.mark.parametrize(
    ("labels", "node"),
    [
        (
            {
                "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED",
                "nvidia.com/gpu.memory": "81559",
                "nvidia.com/gpu.count": "8",
                "node.kubernetes.io/instance-type": "p5.48xlarge",
                "topology.kubernetes.io/region": "us-east-1",
            },
            GpuNode("n1", "NVIDIA-H100-80GB-HBM3", 8, 81559 << 20, "p5.48xlarge", "us-east-1"),
        ),
        (
            {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "nvidia.com/gpu.count": "7"},
            GpuNode("n1", "NVIDIA-A100-SXM4-40GB", 7, is_sliced=True),
        ),
        (
            {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED"},
            GpuNode("n1", "NVIDIA-A100-SXM4-40GB", 16, is_sliced=True),
        ),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, GpuNode("n1", "nvidia-l4", 16)),
        ({"nvidia.com/gpu.count": "many"}, GpuNode("n1", gpus=16)),
    ],
)
def test_what_labels_say_of_a_node(labels: dict[str, str], node: GpuNode) -> None:
    raw = {"metadata": {"name": "n1", "labels": labels}, "status": {"capacity": {"nvidia.com/gpu": "16"}}}
    assert gpu_node(raw) == node
