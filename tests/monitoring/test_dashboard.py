"""Every query of the dashboard finds something on a Prometheus that scrapes real pages and has the shipped rules."""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from ruamel.yaml import YAML
from stage import Stage, scraped
from synthetic import pod_object

from bench.lab.plugin_pods import PluginPod
from bench.lab.programs import ROOT, folder_with
from bench.lab.prometheus import Prometheus, Series, scraping
from bench.lab.thanos import running
from vllm_plugin.names import ANNOTATION_SKIPPED, LABEL_INJECTED

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "vllm-rightsizer.json").read_text())
RULES = ROOT / "deploy" / "prometheus"
WITH_TRAFFIC = (
    'workload_pool:vllm_rightsizer_hit_rate:ratio{pool="recommended"}',
    "workload:vllm_rightsizer_hit_rate:ratio_rate5m",
)
HASTY = {"observationWindow": "96s", "windowCoverage": 5, "minRequests": 10, "lossBudget": 0.75}


def queries() -> list[str]:
    """Those of all panels."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [chosen(text) for text in found]


def chosen(text: str) -> str:
    """As Grafana asks it where all is chosen."""
    for name, value in (("$__rate_interval", "1m"), ("$namespace", ".*"), ("$workload", ".*")):
        text = text.replace(name, value)
    return text


def hasty_rules(folder: Path) -> str:
    """The shipped rules, evaluated every second."""
    yaml = YAML(typ="safe", pure=True)
    groups = [group for name in ("recording-rules", "alerts") for group in yaml.load(RULES / f"{name}.yaml")["groups"]]
    file = folder / "rules.yaml"
    file.write_text(json.dumps({"groups": [{**group, "interval": "1s"} for group in groups]}))
    return str(file)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes two pods, a recommender and a webhook; a third pod is without the plugin."""
    folder = tmp_path_factory.mktemp("dashboard")
    pods = [PluginPod(f"llama-{number}", demand_blocks=600) for number in range(2)]
    with contextlib.ExitStack() as stack:
        for pod in pods:
            stack.enter_context(pod.served())
        stage = Stage(folder, pods, **HASTY)
        bare = pod_object(1, "llama-2", "uid-of-llama-2")
        del bare["metadata"]["labels"][LABEL_INJECTED]
        bare["metadata"]["annotations"][ANNOTATION_SKIPPED] = "python runs isolated: -I"
        stage.show(bare)
        recommender, webhook = stack.enter_context(stage.recommender()), stack.enter_context(stage.webhook())
        config = scraping(scraped(pods), 1)
        config["rule_files"] = [hasty_rules(folder)]
        config["global"]["evaluation_interval"] = "1s"
        config["scrape_configs"] += [
            {
                "job_name": "recommender",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{recommender}"]}],
            },
            {
                "job_name": "webhook",
                "scheme": "https",
                "tls_config": {"insecure_skip_verify": True},
                "static_configs": [{"targets": [f"127.0.0.1:{webhook}"]}],
            },
        ]
        made = Prometheus(folder / "prometheus", config)
        stack.enter_context(running(made))
        # Its first scrapes come seconds after it answers. A rate knows nothing of traffic before them.
        made.becomes("count(up == 1)", len(pods) + 2)
        traffic = Traffic(pods, f"https://127.0.0.1:{webhook}/mutate")
        deadline = time.monotonic() + 240
        while not (stage.kv_bytes and all(made.query(text) for text in WITH_TRAFFIC)):
            assert time.monotonic() < deadline, stage.status
            traffic.goes_on()
            time.sleep(1)
        yield made


class Traffic:
    """Requests for the pods, of which four in five hit, and admissions for the webhook."""

    def __init__(self, pods: Sequence[PluginPod], webhook: str) -> None:
        self._pods, self._webhook = pods, webhook
        self._review = json.loads((ROOT / "deploy" / "examples" / "review.json").read_text())
        self._drawn = random.Random(1)

    def goes_on(self) -> None:
        for pod in self._pods:
            looked_up = [None if self._drawn.random() < 0.2 else self._drawn.randrange(1500) for _ in range(2000)]
            pod.look_up(looked_up, requests=20)
        answer = httpx.post(self._webhook, json=self._review, verify=False, trust_env=False, timeout=30)
        assert answer.json()["response"]["allowed"]


def test_every_query_of_the_dashboard_finds_something(prometheus: Prometheus) -> None:
    assert len(queries()) > 50
    for text in queries():
        prometheus.becomes(text, bool, seconds=60)


def test_the_variables_find_what_there_is(prometheus: Prometheus) -> None:
    offered = {}
    for variable in DASHBOARD["templating"]["list"][1:]:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", chosen(variable["query"])).groups()
        url = f"{prometheus.url}/api/v1/label/{label}/values"
        offered[variable["name"]] = httpx.get(url, params={"match[]": selector}, trust_env=False).json()["data"]
    assert offered == {"namespace": ["chat"], "workload": ["llama"]}
    prometheus.becomes(
        "workload:vllm_rightsizer_pods:count",
        lambda found: [(one["namespace"], one["workload"], value) for one, value in found] == [("chat", "llama", 2)],
    )


def test_the_pods_figures_are_joined_with_their_workload(prometheus: Prometheus) -> None:
    about = pytest.approx(0.8, abs=0.03)
    prometheus.becomes(
        "workload:vllm_rightsizer_hit_rate:ratio_rate5m", lambda found: [value for _, value in found] == [about]
    )

    def is_curve(found: list[Series]) -> bool:
        curve = {labels["pool"]: value for labels, value in found}
        return curve.get("own") == curve.get("today") and all(
            curve.get(pool) == about for pool in ("own", "today", "recommended")
        )

    prometheus.becomes("workload_pool:vllm_rightsizer_hit_rate:ratio", is_curve)


def test_of_a_healthy_fleet_nothing_is_told(prometheus: Prometheus) -> None:
    """But of the pod without the plugin. What a busy machine has pending for a moment goes again."""
    bare = {"VLLMRightsizerPodsWithoutPlugin"}
    prometheus.becomes("ALERTS", lambda told: {labels["alertname"] for labels, _ in told} <= bare)


def pages(prometheus: Prometheus) -> dict[str, str]:
    """Where each target's page is, by its job; of the plugins' pages one."""
    found = {labels["job"]: labels["instance"] for labels, _ in prometheus.query("up")}
    assert found.keys() == {"vllm-rightsizer-plugin", "recommender", "webhook"}
    return {job: f"{'https' if job == 'webhook' else 'http'}://{at}/metrics" for job, at in found.items()}


def test_promtool_finds_nothing_wrong_with_any_page(prometheus: Prometheus) -> None:
    for job, url in pages(prometheus).items():
        text = httpx.get(url, verify=False, trust_env=False, timeout=30).content
        command = [folder_with("promtool") / "promtool", "check", "metrics"]
        done = subprocess.run(command, input=text, capture_output=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, b""), job


def test_the_strict_reader_takes_every_page(prometheus: Prometheus) -> None:
    for job, url in pages(prometheus).items():
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = httpx.get(url, headers=accept, verify=False, trust_env=False, timeout=30)
        assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert len(list(read_openmetrics(answer.text))) > 5, job


def same_in_both_forms(found: list[Series]) -> bool:
    """Series of one page by two jobs, named for their forms: they are alike, and many."""
    seen: dict[str, set[tuple[tuple[str, str], ...]]] = {"text": set(), "openmetrics": set()}
    for labels, _ in found:
        form = labels["job"].rpartition(" ")[2]
        seen[form].add(tuple(sorted((name, text) for name, text in labels.items() if name != "job")))
    return len(seen["text"]) > 20 and seen["text"] == seen["openmetrics"]


def test_prometheus_reads_the_same_series_in_both_forms(prometheus: Prometheus, tmp_path: Path) -> None:
    forms = {"text": "PrometheusText0.0.4", "openmetrics": "OpenMetricsText1.0.0"}
    targets = pages(prometheus)
    jobs = [
        {
            "job_name": f"{job} {form}",
            "scrape_protocols": [protocol],
            "scheme": url.partition(":")[0],
            "tls_config": {"insecure_skip_verify": True},
            "static_configs": [{"targets": [url.split("/")[2]]}],
        }
        for job, url in targets.items()
        for form, protocol in forms.items()
    ]
    other = Prometheus(tmp_path / "forms", {"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
    with running(other):
        for job in targets:
            other.becomes(f'{{__name__=~"vllm_rightsizer_.+", job=~"{job} .+"}}', same_in_both_forms)
        known = httpx.get(f"{other.url}/api/v1/metadata", trust_env=False).json()["data"]
    units = {unit for one in known["vllm_rightsizer_kv_cache_capacity_bytes"] for unit in [one["unit"]] if unit}
    assert units == {"bytes"}
