"""Autoscalers that a change of the pool misleads: which ones, whom that concerns, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender.api.object_store import FileObjectStore
from recommender.api.owners import Owner, Ownership
from recommender.api.workloads import WorkloadRef, recommendation_name
from recommender.autoscaling import AUTOSCALERS, Autoscaler, autoscalers_of, essence
from recommender.events import happenings
from recommender.history import History
from recommender.keys import WorkloadKey
from recommender.kv_demands import KVDemand
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from vllm_plugin.names import ANNOTATION_AUTO

Raw = dict[str, Any]

HPA, SCALED_OBJECT = AUTOSCALERS
EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
LLAMA = ("chat", WorkloadRef("apps", "Deployment", "llama"))
USAGE = "vllm:kv_cache_usage_perc"
MEMORY = "DCGM_FI_DEV_FB_USED"
NOBODY = Ownership()


def hpa(*metrics: Raw, name: str = "busy", target: str = "llama") -> Raw:
    scaled = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    spec = {"scaleTargetRef": scaled, "maxReplicas": 4, "metrics": list(metrics)}
    return {"kind": HPA.kind, "metadata": {"name": name, "namespace": "chat"}, "spec": spec, "status": {}}


def metric(source: str, name: str) -> Raw:
    return {"type": source.capitalize(), source: {"metric": {"name": name}, "target": {"type": "Value"}}}


def scaled_object(*triggers: Raw, **target: str) -> Raw:
    spec = {"scaleTargetRef": {"name": "llama"} | target, "triggers": list(triggers)}
    return {"kind": SCALED_OBJECT.kind, "metadata": {"name": "busy", "namespace": "chat"}, "spec": spec}


def trigger(query: str, **more: str) -> Raw:
    return {"type": "prometheus", "metadata": {"serverAddress": "http://p", "query": query, "threshold": "1"} | more}


def found(folder: Path, *autoscalers: Raw, ownership: Ownership = NOBODY) -> dict[Any, tuple[Autoscaler, ...]]:
    store = FileObjectStore(folder)
    for autoscaler in autoscalers:
        store.apply(autoscaler)
    return autoscalers_of(store, ownership, pytest.fail)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (hpa(metric("pods", USAGE)), USAGE),
        (hpa(metric("pods", "vllm:gpu_cache_usage_perc")), "vllm:gpu_cache_usage_perc"),
        (hpa(metric("pods", "waiting"), metric("external", "vllm_kv_cache_usage_perc")), "vllm_kv_cache_usage_perc"),
        (hpa(metric("object", "kv_cache_usage_perc")), "kv_cache_usage_perc"),
        (scaled_object({"type": "cpu"}, trigger(f'max(avg_over_time({USAGE}{{model="a"}}[5m]))')), USAGE),
        (scaled_object(trigger("q", metricName="gpu_cache_usage_perc")), "gpu_cache_usage_perc"),
    ],
)
def test_one_that_goes_by_the_usage(tmp_path: Path, raw: Raw, name: str) -> None:
    assert found(tmp_path, raw) == {LLAMA: (Autoscaler(raw["kind"], "busy", name),)}


@pytest.mark.parametrize(
    "name",
    [
        "DCGM_FI_DEV_FB_USED",
        "DCGM_FI_DEV_FB_FREE",
        "DCGM_FI_DEV_FB_USED_PERCENT",
        "pod:DCGM_FI_DEV_FB_USED:avg5m",
        "dcgm_fb_used",
        "nvidia_smi_memory_used_bytes",
        "nvidia_smi_memory_free_bytes",
        "nvidia_smi_fb_memory_usage_used_bytes",
        "nvidia_smi_mig_memory_used_bytes",
        "nvidia_smi_memory_used",
        "nvidia_gpu_memory_used_bytes",
        "hami_host_gpu_memory_used_bytes",
        "hami_vgpu_memory_used_bytes",
        "vGPU_device_memory_usage_in_bytes",
        "HostGPUMemoryUsage",
        "container_gpu_memory_used",
        "pod_gpu_memory_utilization",
        "container_accelerator_memory_used_bytes",
        "accelerator/memory_used",
        "accelerator|memory_used",
    ],
)
def test_one_that_goes_by_gpu_memory(tmp_path: Path, name: str) -> None:
    asked = scaled_object(trigger(f'sum(kubernetes_io/{name}{{pod=~"llama-.*"}}) / 2'))
    assert found(tmp_path, asked) == {LLAMA: (Autoscaler(SCALED_OBJECT.kind, "busy", gpu_memory=name),)}
    assert found(tmp_path, hpa(metric("external", name)))[LLAMA][0].gpu_memory == name


def test_one_that_goes_by_both(tmp_path: Path) -> None:
    raw = scaled_object(trigger(f"max({USAGE})"), trigger(f"{MEMORY} / DCGM_FI_DEV_FB_FREE"))
    assert found(tmp_path, raw) == {LLAMA: (Autoscaler(raw["kind"], "busy", USAGE, MEMORY),)}


def test_a_long_query_takes_no_longer_than_it_is() -> None:
    """Were it looked through from each of its letters, this would take hours."""
    assert essence(scaled_object(trigger("a" * (1 << 20))), SCALED_OBJECT) is None


@pytest.mark.parametrize(
    "raw",
    [
        hpa(),
        hpa({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}),
        hpa(metric("pods", "vllm:num_requests_waiting")),
        hpa(metric("external", "vllm_rightsizer_workload_kv_demand_ratio")),
        scaled_object(trigger("sum(vllm:num_requests_running)"), {"type": "cpu"}),
        # What it has, how busy it is, and an argument of vLLM's among the labels of an info.
        *(
            scaled_object(trigger(f"max({name})"))
            for name in (
                "DCGM_FI_DEV_FB_TOTAL",
                "DCGM_FI_DEV_GPU_UTIL",
                "DCGM_FI_DEV_MEM_COPY_UTIL",
                "nvidia_smi_memory_total_bytes",
                "nvidia_smi_utilization_memory_ratio",
                "hami_host_gpu_memory_controller_utilization_ratio",
                'vllm:cache_config_info{gpu_memory_utilization="0.9"}',
                "container_memory_working_set_bytes",
            )
        ),
    ],
)
def test_one_that_does_not(tmp_path: Path, raw: Raw) -> None:
    assert found(tmp_path, raw) == {}
    assert essence(raw, HPA) is None


def test_what_is_kept_of_one_does_not_change_with_its_status() -> None:
    raw = hpa(metric("pods", USAGE))
    raw["metadata"]["resourceVersion"] = "7"
    kept = essence(raw, HPA)
    assert kept == {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "busy", "namespace": "chat"},
        "spec": raw["spec"],
    }


@pytest.mark.parametrize("change", [{"scaleTargetRef": None}, {"scaleTargetRef": {}}, {"metrics": [7]}])
def test_one_that_cannot_be_understood_hides_no_other(tmp_path: Path, change: Raw) -> None:
    store, said = FileObjectStore(tmp_path), list[str]()
    broken = hpa(metric("pods", USAGE), name="broken")
    broken["spec"] |= change
    for raw in (broken, hpa(metric("pods", USAGE))):
        store.apply(raw)
    assert autoscalers_of(store, NOBODY, said.append) == {LLAMA: (Autoscaler(HPA.kind, "busy", USAGE),)}
    [sentence] = said
    assert sentence.startswith("HorizontalPodAutoscaler chat/broken is passed over: ")


def test_whom_it_scales(tmp_path: Path) -> None:
    """Of any kind; and for who is above, as for the InferenceService above its Deployment."""
    service = WorkloadRef("serving.kserve.io", "InferenceService", "chat")
    predictor = ("chat", WorkloadRef("apps", "Deployment", "chat-predictor"))
    ownership = Ownership({predictor: Owner({}, (service,))})
    rollout = scaled_object(trigger(USAGE), apiVersion="argoproj.io/v1alpha1", kind="Rollout", name="canary")
    of_service = hpa(metric("pods", USAGE), target="chat-predictor")
    assert found(tmp_path, rollout, of_service, ownership=ownership) == {
        ("chat", WorkloadRef("argoproj.io", "Rollout", "canary")): (Autoscaler("ScaledObject", "busy", USAGE),),
        predictor: (Autoscaler(HPA.kind, "busy", USAGE),),
        ("chat", service): (Autoscaler(HPA.kind, "busy", USAGE),),
    }


class Stand:
    """A recommender with one automated workload."""

    def __init__(self, store: FileObjectStore, recommender: Recommender, telemetry: Telemetry) -> None:
        self.store, self.telemetry = store, telemetry
        self._recommender = recommender

    async def status(self) -> Raw:
        """After one more round."""
        await self._recommender.round()
        made = self.store.get("VLLMRecommendation", KEY.namespace, recommendation_name(KEY.workload, KEY.container))
        assert made is not None
        status: Raw = made["status"]
        return status

    @property
    def conflicts(self) -> float | None:
        return self.conflicts_by("ScaledByPoolUsage")

    def conflicts_by(self, reason: str) -> float | None:
        labels = {"namespace": "chat", "kind": "Deployment", "workload": "llama", "container": "vllm", "reason": reason}
        return self.telemetry.registry.get_sample_value("vllm_rightsizer_workload_autoscaler_conflicts", labels)

    def automate(self, word: str) -> None:
        [deployment] = self.store.list("Deployment")
        deployment["metadata"]["annotations"][ANNOTATION_AUTO] = word
        self.store.apply(deployment)


@pytest.fixture
async def stand(tmp_path: Path) -> AsyncIterator[Stand]:
    engine, telemetry, store = SyntheticEngine(), Telemetry(), FileObjectStore(tmp_path / "objects")
    with served(lambda: engine.page().encode()) as port, History.open(tmp_path / "history.db") as history:
        for obj in (*cluster_objects(), policy_object(), pod_object(port)):
            store.apply(obj)
        async with Scraper() as scraper:
            yield Stand(store, Recommender(store, history, scraper, telemetry), telemetry)


def conflict(status: Raw) -> Raw | None:
    return next((one for one in status["conditions"] if one["type"] == "AutoscalerConflict"), None)


async def test_people_are_told_at_once_and_until_it_is_over(stand: Stand) -> None:
    before = await stand.status()
    assert (conflict(before), stand.conflicts) == (None, None)
    stand.store.apply(hpa(metric("pods", USAGE)))
    stand.store.apply(scaled_object(trigger(USAGE)))
    status = await stand.status()
    said = conflict(status)
    assert said is not None
    assert (said["status"], said["reason"]) == ("True", "ScaledByPoolUsage")
    for text in ("HorizontalPodAutoscaler busy by", "ScaledObject busy by", "workload_kv_demand_ratio"):
        assert text in said["message"]
    [told] = happenings(before, status)
    assert (told.type, told.reason) == ("Warning", "ScaledByPoolUsage")
    assert stand.conflicts == 2
    stand.store.delete("ScaledObject", "chat", "busy")
    assert "ScaledObject" not in (conflict(await stand.status()) or {})["message"]
    stand.store.delete("HorizontalPodAutoscaler", "chat", "busy")
    assert conflict(await stand.status()) is None
    assert stand.conflicts is None


async def test_each_metric_is_told_with_what_becomes_of_it(stand: Stand) -> None:
    stand.store.apply(scaled_object(trigger(f"{MEMORY} / DCGM_FI_DEV_FB_FREE")))
    by_memory = await stand.status()
    said = conflict(by_memory)
    assert said is not None
    assert said["reason"] == "ScaledByGPUMemory"
    assert f"ScaledObject busy by {MEMORY}. A smaller KV cache lowers" in said["message"]
    assert "raises" not in said["message"]
    assert (stand.conflicts, stand.conflicts_by("ScaledByGPUMemory")) == (None, 1)

    stand.store.apply(hpa(metric("pods", USAGE)))
    by_both = await stand.status()
    said = conflict(by_both)
    assert said is not None
    assert said["reason"] == "ScaledByPoolUsageAndGPUMemory"
    assert f"HorizontalPodAutoscaler busy by {USAGE}. A smaller KV cache raises" in said["message"]
    assert f"ScaledObject busy by {MEMORY}. A smaller KV cache lowers" in said["message"]
    assert said["message"].count("workload_kv_demand_ratio") == 1
    [told] = happenings(by_memory, by_both)
    assert (told.type, told.reason) == ("Warning", "ScaledByPoolUsageAndGPUMemory")
    assert (stand.conflicts, stand.conflicts_by("ScaledByGPUMemory")) == (1, 1)


async def test_nobody_is_told_where_nothing_changes_the_pool(stand: Stand) -> None:
    stand.automate("false")
    stand.store.apply(hpa(metric("pods", USAGE)))
    assert conflict(await stand.status()) is None
    assert stand.conflicts is None
    stand.automate("true")
    assert conflict(await stand.status()) is not None
    assert stand.conflicts == 1


def example(name: str) -> Raw:
    raw: Raw = YAML(typ="safe", pure=True).load(EXAMPLES / name)
    return raw


def test_the_examples_go_by_series_that_there_are(tmp_path: Path) -> None:
    """Names and labels, as the recommender has them for the Deployment of the example beside."""
    telemetry = Telemetry()
    deployment = example("llama-3-8b.yaml")
    workload = WorkloadRef("apps", deployment["kind"], deployment["metadata"]["name"])
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    key = WorkloadKey(deployment["metadata"]["namespace"], workload, container["name"])
    telemetry.kv_demands({key: KVDemand(1, 0.5, 0.25)})
    autoscaler, scaled = example("autoscaling-hpa.yaml"), example("autoscaling-keda.yaml")
    metrics = [one["external"]["metric"] for one in autoscaler["spec"]["metrics"]]
    # The API is asked for those of the autoscaler's namespace.
    namespace = {"namespace": autoscaler["metadata"]["namespace"]}
    asked = [(one["name"], namespace | one["selector"]["matchLabels"]) for one in metrics]
    for one in scaled["spec"]["triggers"]:
        name, _, matchers = one["metadata"]["query"].partition("{")
        asked.append((name, dict(re.findall(r'(\w+)="([^"]*)"', matchers))))
    values = [telemetry.registry.get_sample_value(name, labels) for name, labels in asked]
    assert values == [0.5, 0.25, 0.5, 0.25]
    assert found(tmp_path, autoscaler, scaled) == {}
