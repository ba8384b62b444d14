"""The dashboard's figures of a fleet are right: of three workloads, each of which two recommenders tell."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.lab.programs import ROOT, folder_with

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

RULES = ROOT / "deploy" / "prometheus" / "recording-rules.yaml"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "vllm-rightsizer.json").read_text())
QUERIES: dict[str, str] = {
    panel["title"]: panel["targets"][0]["expr"] for panel in DASHBOARD["panels"] if panel["type"] == "stat"
}


@dataclass(frozen=True)
class Workload:
    name: str
    automated: bool
    source: str
    cost: int
    requested: int
    recommended: int | None
    pool: int
    """Recommended, of today's 100; 0 where nothing is recommended."""

    def series(self, recommender: str) -> Iterator[Raw]:
        figures: dict[tuple[str, str], int | None] = {
            ("automated", f'source="{self.source}"'): self.automated,
            ("requested_money_per_month", 'currency="USD"'): self.cost,
            ("requested_bytes", ""): self.requested,
            ("recommended_bytes", ""): self.recommended,
            ("kv_pool_bytes", 'pool="today"'): 100,
            ("kv_pool_bytes", 'pool="recommended"'): self.pool or None,
        }
        own = f'instance="{recommender}",namespace="chat",kind="Deployment",workload="{self.name}",container="vllm"'
        for (name, more), value in figures.items():
            if value is not None:
                yield {"series": f"vllm_rightsizer_workload_{name}{{{own},{more}}}", "values": f"{int(value)}x5"}


FLEET = (
    Workload("halved", automated=True, source="namespace", cost=1000, requested=80, recommended=40, pool=40),
    Workload("unmeasured", automated=False, source="cluster", cost=500, requested=80, recommended=None, pool=0),
    # Within a tenth of what is recommended.
    Workload("close", automated=True, source="workload", cost=600, requested=60, recommended=57, pool=95),
)


@pytest.mark.parametrize(
    ("title", "figures"),
    [
        ("Automated", {"{}": 2}),
        ("Share automated", {"{}": 2 / 3}),
        ("Automated by", {'{source="namespace"}': 1, '{source="workload"}': 1, '{source="cluster"}': 0}),
        ("Over-provisioned", {"{}": 1}),
        ("Cost a month", {'{currency="USD"}': 2100}),
        # What nothing is recommended for stays as it is.
        ("Cost as recommended", {'{currency="USD"}': 500 + 500 + 570}),
    ],
)
def test_the_fleet_is_counted_once(title: str, figures: dict[str, float], tmp_path: Path) -> None:
    query = QUERIES[title].replace("$namespace", ".*").replace("$workload", ".*")
    samples = [{"labels": labels, "value": value} for labels, value in figures.items()]
    case = {
        "interval": "1m",
        "input_series": [one for workload in FLEET for name in ("r-0", "r-1") for one in workload.series(name)],
        "promql_expr_test": [{"expr": query, "eval_time": "3m", "exp_samples": samples}],
    }
    file = tmp_path / "figures.yaml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]}))
    done = subprocess.run(
        [folder_with("promtool") / "promtool", "test", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
