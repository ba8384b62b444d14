"""`plan`, as a user types it, on the objects of the example."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from vllm_rightsizer.demo.ports import free_ports

Cli = Callable[..., CompletedProcess[str]]
EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A copy of the example's objects."""
    return Path(shutil.copytree(EXAMPLES / "cluster", tmp_path / "cluster"))


def change(objects: Path, path: str, changed: Callable[[Any], None]) -> None:
    raw = json.loads((objects / path).read_text())
    changed(raw)
    (objects / path).write_text(json.dumps(raw))


def test_a_table(cli: Cli, objects: Path) -> None:
    done = cli("plan", "--objects", str(objects))
    assert done.returncode == 0, done.stderr
    assert not any(line.endswith(" ") for line in done.stdout.splitlines())
    lines = done.stdout.splitlines()
    assert lines[0] == "NVIDIA-H100-80GB-HBM3, 79.65 GiB each"
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["now"][-1] == "9"
    assert rows["bankable: as schedulers are asked"][5:7] == ["7", "2"]
    assert rows["potential: if all asked for their share"][7:9] == ["5", "4"]
    assert "20089.60 USD, prices of 2026-07-20" in done.stdout
    assert "Together on one GPU: bankable" in done.stdout
    assert "chat/llama-3-70b-0/vllm whole" in done.stdout
    assert "3g.40gb" in done.stdout


def test_json_for_programs(cli: Cli, objects: Path) -> None:
    done = cli("plan", "--objects", str(objects), "--prices", str(EXAMPLES / "prices.yaml"), "-o", "json")
    [stock] = json.loads(done.stdout)["stocks"]
    assert stock["gpus"] == 9
    assert stock["leastGPUs"] == 4
    potential = stock["potential"]
    assert (potential["freedGPUs"], potential["freedNodes"]) == (4, ["gpu-b"])
    assert potential["worthPerMonth"] == pytest.approx(4 * 4.10 * 730)
    assert (potential["currency"], potential["pricedAt"]) == ("USD", "2026-11-01")
    placed = [engine["name"] for card in potential["cards"] for engine in card["engines"]]
    assert placed.count("chat/llama-3-70b-0/vllm") == 4
    assert stock["migProfiles"]["chat/mistral-7b-0/vllm"] == "3g.40gb"


def test_prices_of_opencost(cli: Cli, objects: Path) -> None:
    """Of a node that it knows; the map comes first."""
    asset = {"type": "Node", "gpuCost": 96.0, "GPUHours": 192.0}
    nodes = {name: {**asset, "properties": {"name": name, "cluster": "one"}} for name in ("gpu-a", "gpu-b")}
    body = json.dumps({"code": 200, "data": nodes}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/assets?window=24h" else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    # Nobody else is given it once it is free again.
    [port] = free_ports(1)
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        url = f"http://127.0.0.1:{port}"
        done = cli("plan", "--objects", str(objects), "--opencost", url, "-o", "json")
        server.shutdown()
    [stock] = json.loads(done.stdout)["stocks"]
    assert stock["potential"]["worthPerMonth"] == pytest.approx(4 * 0.5 * 730)
    away = cli("plan", "--objects", str(objects), "--opencost", url)
    assert away.returncode == 1
    assert f"OpenCost at 127.0.0.1:{port} cannot be asked" in away.stderr
    wrong = cli("plan", "--objects", str(objects), "--opencost", "opencost:9003")
    assert wrong.returncode == 2
    assert "--opencost opencost:9003 is no URL" in wrong.stderr


def test_without_a_price(cli: Cli, objects: Path) -> None:
    for node in ("gpu-a", "gpu-b"):
        path = f"node/_cluster/{node}.json"
        change(objects, path, lambda raw: raw["metadata"]["labels"].pop("node.kubernetes.io/instance-type"))
    done = cli("plan", "--objects", str(objects))
    assert "unknown: NVIDIA-H100-80GB-HBM3 is in no table" in done.stdout
    [stock] = json.loads(cli("plan", "--objects", str(objects), "-o", "json").stdout)["stocks"]
    assert stock["potential"]["worthPerMonth"] is None
    assert "name its price" in stock["potential"]["noPrice"]


def test_who_is_left_out_is_said(cli: Cli, objects: Path) -> None:
    change(objects, "pod/chat/mistral-7b-0.json", lambda raw: raw["spec"].pop("nodeName"))
    done = cli("plan", "--objects", str(objects))
    assert "chat/mistral-7b-0/vllm is in no plan: it runs on no node yet" in done.stdout


def test_of_one_workload(cli: Cli, objects: Path) -> None:
    """The plan is one of all, what is shown is its part."""
    whole = json.loads(cli("plan", "--objects", str(objects), "-o", "json").stdout)["stocks"][0]
    [stock] = json.loads(cli("plan", "sts/mistral-7b", "--objects", str(objects), "-o", "json").stdout)["stocks"]
    assert stock["potential"]["freedGPUs"] == whole["potential"]["freedGPUs"]
    for cards in (stock["bankable"]["cards"], stock["potential"]["cards"]):
        assert cards
        assert all(any("mistral" in one["name"] for one in card["engines"]) for card in cards)
    assert len(stock["potential"]["cards"]) < len(whole["potential"]["cards"])
    table = cli("plan", "mistral-7b", "--objects", str(objects)).stdout
    assert "chat/mistral-7b-0/vllm" in table
    cards = [line for line in table.splitlines() if line.startswith("gpu-")]
    assert all("chat/mistral-7b-" in line for line in cards)
    wrong = cli("plan", "mistrl-7b", "--objects", str(objects))
    assert wrong.returncode == 2
    assert "did you mean mistral-7b?" in wrong.stderr
    assert "chat/llama-3-70b-0/vllm" in cli("plan", "-n", "chat", "--objects", str(objects)).stdout
    elsewhere = cli("plan", "-n", "elsewhere", "--objects", str(objects)).stdout
    assert "no GPUs to plan with: no pod that runs vLLM in namespace elsewhere holds one on" in elsewhere


def test_lines_for_spreadsheets(cli: Cli, objects: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(cli("plan", "--objects", str(objects), "-o", "csv").stdout)))
    assert {line["scenario"] for line in lines} == {"bankable", "potential"}
    whole = [line for line in lines if line["engine"] == "chat/llama-3-70b-0/vllm" and line["scenario"] == "bankable"]
    assert [line["requestBytes"] for line in whole] == [""] * 4
    assert lines[0]["product"] == "NVIDIA-H100-80GB-HBM3"


def test_nothing_to_plan(cli: Cli, tmp_path: Path) -> None:
    done = cli("plan", "--objects", str(tmp_path))
    assert done.returncode == 0
    assert "no GPUs to plan with" in done.stdout
    assert json.loads(cli("plan", "--objects", str(tmp_path), "-o", "json").stdout) == {"stocks": [], "leftOut": []}


@pytest.mark.parametrize(
    ("text", "why"), [("date: 2026-11-01\nproducts: {H100: cheap}", "products.H100"), (None, "cannot be read")]
)
def test_prices_that_are_none(cli: Cli, objects: Path, tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "prices.yaml"
    if text is not None:
        path.write_text(text)
    done = cli("plan", "--objects", str(objects), "--prices", str(path))
    assert done.returncode == 2
    assert why in done.stderr
    assert not done.stdout


def test_a_recommender_with_prices_that_are_none(cli: Cli, objects: Path, tmp_path: Path) -> None:
    [port] = free_ports(1)
    arguments = ("--history", str(tmp_path / "history.db"), "--port", str(port))
    done = cli("recommender", "--objects", str(objects), *arguments, "--prices", str(tmp_path / "nowhere.yaml"))
    assert done.returncode == 1
    assert "nowhere.yaml cannot be read" in done.stderr
