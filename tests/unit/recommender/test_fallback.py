"""Pods without the plugin, over real HTTP: an estimate that says so everywhere, and never a target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served
from test_vllm_pages import newest
from typer.testing import CliRunner

from recommender.api.object_store import FileObjectStore
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.workloads import recommendation_name
from recommender.discovery import Pod, census_of, discover
from recommender.history import History
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from vllm_plugin import names
from vllm_rightsizer.cli import app

NAME = recommendation_name(KEY.workload, KEY.container)


class Stand:
    """A recommender, and one pod whose vLLM answers on a port of its own."""

    def __init__(self, folder: Path, scraper: Scraper) -> None:
        self.folder = folder
        self.store = FileObjectStore(folder / "objects")
        for obj in (*cluster_objects(), policy_object(observationWindow="60s")):
            self.store.apply(obj)
        self.history = History.open(folder / "history.db")
        self.telemetry = Telemetry()
        self.recommender = Recommender(self.store, self.history, scraper, self.telemetry)

    def recommendation(self) -> VLLMRecommendation | None:
        raw = self.store.get("VLLMRecommendation", KEY.namespace, NAME)
        return VLLMRecommendation.from_json(raw) if raw is not None else None

    def estimated_pods(self) -> float | None:
        return self.telemetry.registry.get_sample_value("vllm_rightsizer_recommender_estimated_pods")


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    async with Scraper(deadline_seconds=60) as scraper:
        made = Stand(tmp_path, scraper)
        yield made
        made.history.close()


@pytest.fixture
def pages() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bare_pod(port: int, **metadata: Any) -> dict[str, Any]:
    """There before the namespace opted in."""
    pod = pod_object(1, arguments=("vllm", "serve", "llama", "--port", str(port)))
    del pod["metadata"]["labels"][names.LABEL_INJECTED]
    pod["spec"]["containers"][1]["env"] = []
    pod["metadata"] |= metadata
    return pod


def silent_pod(plugin_port: int, vllm_port: int) -> dict[str, Any]:
    """The webhook brought the plugin, and Python left it aside."""
    return pod_object(plugin_port, arguments=("vllm", "serve", "llama", f"--port={vllm_port}"))


@pytest.mark.parametrize("kind", ["bare", "silent"])
async def test_an_estimate_and_no_target(stand: Stand, pages: ExitStack, kind: str) -> None:
    port = pages.enter_context(served(lambda: newest().encode()))
    refusing = pages.enter_context(served(lambda: b"", 404))
    stand.store.apply(bare_pod(port) if kind == "bare" else silent_pod(refusing, port))
    for _ in range(3):
        await stand.recommender.round()
    found = stand.recommendation()
    assert found is not None
    status = found.status
    assert status.estimated is not None
    assert (status.estimated.kv_pool_blocks, status.estimated.kv_high_blocks) == (4096, 4096)
    assert 900 < status.estimated.kv_low_blocks <= 1025
    assert 0 < status.estimated.confidence < 0.01
    assert status.estimated.hit_rate == 0.25
    assert status.target is None
    assert status.measured is None
    for type_ in ("PluginReporting", "Recommended"):
        condition = found.condition(type_)
        assert condition is not None
        assert (condition.status, condition.reason) == ("False", "EstimatedFromVLLM")
        assert "never applied" in condition.message
    assert stand.estimated_pods() == 1


async def test_no_estimate_makes_a_target_however_sure_it_is(stand: Stand, pages: ExitStack) -> None:
    """Nothing is at stake but what requests hold, and the figure is small: the pool stays what it is."""
    page = newest(usage=0.01).replace(" 1000.0", " 0.0").replace(" 3.0", " 0.0")
    stand.store.apply(bare_pod(pages.enter_context(served(lambda: page.encode()))))
    for _ in range(10):
        await stand.recommender.round()
    found = stand.recommendation()
    assert found is not None
    assert found.status.estimated is not None
    assert found.status.estimated.kv_high_blocks < 500
    assert found.status.target is None
    assert "flags" not in str(found.to_json())


async def test_measurements_take_the_estimates_place(stand: Stand, pages: ExitStack) -> None:
    vllm = pages.enter_context(served(lambda: newest().encode()))
    stand.store.apply(bare_pod(vllm))
    await stand.recommender.round()
    engine = SyntheticEngine()
    plugin = pages.enter_context(served(lambda: engine.page().encode()))
    stand.store.apply(silent_pod(plugin, vllm))
    await stand.recommender.round()
    found = stand.recommendation()
    assert found is not None
    assert found.status.estimated is None
    assert found.status.measured is not None or found.condition("PluginReporting")
    assert stand.estimated_pods() == 0


async def test_what_answers_without_vllms_metrics_is_no_workload(stand: Stand, pages: ExitStack) -> None:
    stand.store.apply(bare_pod(pages.enter_context(served(lambda: b"<html>a dashboard for vllm</html>"))))
    await stand.recommender.round()
    assert stand.recommendation() is None


async def test_a_page_that_fails_once_is_not_forgotten(stand: Stand, pages: ExitStack) -> None:
    answers = [newest().encode(), b"", newest().encode()]
    stand.store.apply(bare_pod(pages.enter_context(served(lambda: answers.pop(0)))))
    for _ in range(3):
        await stand.recommender.round()
        assert stand.estimated_pods() == 1


async def test_explain_says_that_it_is_estimated(stand: Stand, pages: ExitStack) -> None:
    stand.store.apply(bare_pod(pages.enter_context(served(lambda: newest().encode()))))
    await stand.recommender.round()
    arguments = ["explain", KEY.workload.name, "-n", KEY.namespace]
    arguments += ["--objects", str(stand.folder / "objects"), "--history", str(stand.folder / "history.db")]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "Estimated, not measured" in said.output
    assert "of 4096 blocks" in said.output
    assert "Nothing is recommended" in said.output
    as_json = CliRunner().invoke(app, [*arguments, "-o", "json"])
    assert '"kvPoolBlocks": 4096' in as_json.output


# --- Which pods, and where vLLM answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "port"),
    [
        ({"command": ["vllm", "serve", "llama"]}, 8000),
        ({"args": ["--model", "llama", "--port", "8080"]}, 8080),
        ({"args": ["--port=8080", "--port", "9090"]}, 9090),
        ({"command": ["sh", "-c", "exec vllm serve llama --port=8080 --seed 1"]}, 8080),
        ({"command": ["python3", "-m", "vllm.entrypoints.openai.api_server"], "image": "python:3.12"}, 8000),
        ({"args": ["--port", "$(PORT)"]}, None),
        ({"args": ["--port", "99999"]}, None),
        ({"image": "envoy", "command": ["envoy"]}, None),
    ],
)
def test_where_vllms_own_page_is(stand_store: FileObjectStore, container: dict[str, Any], port: int | None) -> None:
    pod = bare_pod(1)
    vllm = pod["spec"]["containers"][1]
    del vllm["command"]
    vllm |= container
    stand_store.apply(pod)
    assert [one.vllm_address for one in bare_pods(stand_store)] == ([] if port is None else [("127.0.0.1", port)])


def bare_pods(store: FileObjectStore) -> list[Pod]:
    return list(discover(census_of(store)).bare)


@pytest.fixture
def stand_store(tmp_path: Path) -> FileObjectStore:
    store = FileObjectStore(tmp_path)
    for obj in cluster_objects():
        store.apply(obj)
    return store


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": {names.ANNOTATION_EXCLUDE: "true"}},
        {"namespace": "elsewhere"},
        {"deletionTimestamp": "2026-11-21T06:00:00Z"},
        {"annotations": {names.ANNOTATION_CONTAINER: "nobody"}},
    ],
)
def test_pods_that_are_left_alone(stand_store: FileObjectStore, changes: dict[str, Any]) -> None:
    stand_store.apply(bare_pod(8000, **changes))
    assert bare_pods(stand_store) == []


def test_an_excluded_workload_is_left_alone(stand_store: FileObjectStore) -> None:
    deployment = cluster_objects()[2]
    deployment["metadata"]["annotations"] = {names.ANNOTATION_EXCLUDE: "true"}
    stand_store.apply(deployment)
    stand_store.apply(bare_pod(8000))
    assert bare_pods(stand_store) == []


def test_an_annotation_names_the_container(stand_store: FileObjectStore) -> None:
    stand_store.apply(bare_pod(8000, annotations={names.ANNOTATION_CONTAINER: "proxy"}))
    (pod,) = bare_pods(stand_store)
    assert pod.key.container == "proxy"


def test_an_injected_pod_has_both_addresses(stand_store: FileObjectStore) -> None:
    stand_store.apply(silent_pod(9415, 8080))
    (pod,) = discover(census_of(stand_store)).injected
    assert (pod.address, pod.vllm_address) == (("127.0.0.1", 9415), ("127.0.0.1", 8080))
