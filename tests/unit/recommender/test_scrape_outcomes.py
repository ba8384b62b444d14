"""What the alerts on gaps go by: how a scrape counts, and which pods could have a page at all."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluated import pod
from synthetic import SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.history import History
from recommender.recommending import Recommender
from recommender.samples import PodSample
from recommender.scraping import Scrape, Scraper
from recommender.telemetry import Telemetry

OUTCOMES = ("ok", "failed", "not-ready")


@pytest.mark.parametrize(
    ("scrape", "outcome"),
    [
        pytest.param(Scrape(pod(), 0, 0.01, sample=PodSample("0.1.0", ())), "ok", id="a page that counts"),
        pytest.param(
            Scrape(pod(), 0, 0.01, fault="the model has no KV cache", aside="NoKVCache"), "ok", id="nothing to size"
        ),
        pytest.param(Scrape(pod(), 0, 5, fault="no page within 5 s"), "failed", id="no page of a pod that serves"),
        pytest.param(
            Scrape(pod(ready=False), 0, 0.01, fault="connection refused"), "not-ready", id="vLLM loads its model"
        ),
    ],
)
def test_a_scrape_counts_by_what_it_says_of_the_way_to_the_pod(scrape: Scrape, outcome: str) -> None:
    telemetry = Telemetry()
    telemetry.scraped([scrape, scrape])
    found = {
        name: telemetry.registry.get_sample_value("vllm_rightsizer_recommender_scrapes_total", {"outcome": name})
        for name in OUTCOMES
    }
    assert found == {**dict.fromkeys(OUTCOMES, 0.0), outcome: 2.0}


async def test_a_pod_that_waits_for_a_node_is_nobodys_gap(tmp_path: Path) -> None:
    """Prometheus can have no series of it."""
    engine, telemetry, store = SyntheticEngine(), Telemetry(), FileObjectStore(tmp_path / "objects")
    with served(lambda: engine.page().encode()) as port:
        waiting = pod_object(port, "waits", "p-2")
        waiting["status"] = {"phase": "Pending"}
        for obj in (*cluster_objects(), policy_object(), pod_object(port, "runs"), waiting):
            store.apply(obj)
        history = History.open(tmp_path / "history.db")
        async with Scraper() as scraper:
            await Recommender(store, history, scraper, telemetry).round()
        history.close()
    families = {family.name: family for family in telemetry.registry.collect()}
    shown = families["vllm_rightsizer_workload_pod_info"].samples
    assert [sample.labels["pod"] for sample in shown] == ["runs"]
    assert telemetry.registry.get_sample_value("vllm_rightsizer_recommender_pods") == 2
