"""Every manifest of deploy/examples comes out right, by the code of `admit` and by that of `rewrite`.

tests/cluster/test_examples.py has the same pods admitted by a real API server.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from example_pods import (
    EXAMPLES,
    FILES,
    FOREIGN_WORDS,
    PODLESS,
    REQUEST_MIB,
    TABLE,
    check,
    containers_in,
    documents,
    objects_of,
    pods_from,
    recommendation,
    row_of,
    shares_in,
)
from webhook_cases import FLAGS, KV_BYTES, UTILIZATION, environment, patched, review

from recommender.api.object_store import FileObjectStore
from recommender.api.policies import ClusterAutomation, ClusterAutomationSpec, VLLMPolicy
from recommender.policy_contradictions import contradictions
from recommender.policy_effects import not_followed
from vllm_plugin.names import ANNOTATION_SKIPPED, ENV_KV_BYTES, ENV_PORT, LABEL_INJECTED
from vllm_rightsizer.rewriting import rewrite_manifest
from webhook.offline import admit_json

Raw = dict[str, Any]

NAMESPACE = "chat"


def _admitted(pod: Raw, folder: Path | None) -> Raw:
    """The whole answer."""
    answer: Raw = json.loads(admit_json(json.dumps(review(pod, namespace=NAMESPACE)).encode(), folder))
    return answer


def _recommended(file: str, folder: Path) -> list[tuple[str, Raw]]:
    """The example's pods; `folder` has its objects, and a recommendation for each engine."""
    store = FileObjectStore(folder)
    for obj in objects_of(file):
        store.apply(obj)
    pods = list(pods_from(file))
    for place, pod in pods:
        for container in containers_in(pod):
            if row_of(file, place, container).form.is_vllm:
                store.apply(recommendation(pod, container))
    return pods


def test_the_table_names_every_container_of_every_example() -> None:
    found = {
        (path.stem, place, container)
        for path in EXAMPLES.glob("*.yaml")
        if path.stem not in PODLESS
        for place, pod in pods_from(path.stem)
        for container in containers_in(pod)
    }
    assert found == {(row.file, row.place, row.container) for row in TABLE}


@pytest.mark.parametrize("file", FILES)
def test_a_pod_of_the_example_starts_with_its_recommendation(file: str, tmp_path: Path) -> None:
    """By the annotations that stand in the example, on the template or on the workload."""
    for place, before in _recommended(file, tmp_path):
        answer = _admitted(before, tmp_path)
        after = patched(before, answer)
        for name, container in containers_in(after).items():
            check(containers_in(before)[name], container, row_of(file, place, name))
        assert "warnings" not in answer["response"]
        assert ANNOTATION_SKIPPED not in (after["metadata"].get("annotations") or {})
        assert "patch" not in _admitted(after, tmp_path)["response"]


SHARES = {
    "share-hami": ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": str(REQUEST_MIB)}, None),
    "share-kai": ({}, str(REQUEST_MIB)),
    "share-dra": ({}, None),
}


@pytest.mark.parametrize("file", SHARES)
def test_a_share_is_asked_for_in_the_schedulers_words(file: str, tmp_path: Path) -> None:
    [(_, before)] = _recommended(file, tmp_path)
    assert shares_in(before) == ({"nvidia.com/gpu": 1}, None, None)
    limits, annotation, claims = shares_in(patched(before, _admitted(before, tmp_path)))
    assert (limits, annotation) == SHARES[file]
    assert bool(claims) is (file == "share-dra")


def test_shares_of_the_authors_own_stay(tmp_path: Path) -> None:
    """Whichever emitter the cluster has."""
    pods = _recommended("own-share", tmp_path)
    cluster = ClusterAutomation(metadata={"name": "default"}, spec=ClusterAutomationSpec(emitter="hami"))
    FileObjectStore(tmp_path).apply(cluster.to_json())
    for _, before in pods:
        after = patched(before, _admitted(before, tmp_path))
        assert shares_in(after) == shares_in(before)
        assert "no emitter" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]


GATED = ("meta-llama/", "mistralai/")
"""Whose models Hugging Face gives only to those who have agreed to a licence."""


@pytest.mark.parametrize("file", FILES)
def test_a_gated_model_comes_with_a_token(file: str) -> None:
    files = [obj for obj in documents(EXAMPLES / f"{file}.yaml") if obj.get("kind") == "ConfigMap"]
    for _, pod in pods_from(file):
        for container in [*containers_in(pod).values(), *pod["spec"].get("initContainers", [])]:
            mounted = [obj for obj in files if obj["metadata"]["name"] in json.dumps(pod["spec"].get("volumes", []))]
            if any(owner in json.dumps([container, *mounted]) for owner in GATED):
                assert "secretKeyRef" in json.dumps(container.get("env", [])), container["name"]


def test_two_engines_are_measured_on_two_ports() -> None:
    [(_, before)] = pods_from("two-engines")
    after = patched(before, _admitted(before, None))
    containers = containers_in(after)
    assert after["metadata"]["labels"][LABEL_INJECTED] == "true"
    assert [environment(containers[name]).get(ENV_PORT) for name in ("chat", "code", "router")] == [
        "9415",
        "9416",
        None,
    ]


@pytest.mark.parametrize("file", sorted(set(FILES) - set(FOREIGN_WORDS)))
def test_rewrite_shows_the_same(file: str) -> None:
    """Of templates that stand in the file; a person says the share of the GPU, so that it is known at once."""
    manifest = rewrite_manifest((EXAMPLES / f"{file}.yaml").read_text(), file, KV_BYTES, UTILIZATION)
    rows = [row for row in TABLE if row.file == file]
    in_sight = file in ("llama-3-8b-any-gpu", "share-dra")
    by_arguments = sum(row.form.flags != () or in_sight for row in rows)
    by_variables = sum(row.form.variables != {} and not in_sight for row in rows)
    diff = manifest.diff(file)
    assert diff.count(f"- {FLAGS[1]}\n") + diff.count(f", {FLAGS[1]}]") == by_arguments
    assert diff.count(f"name: {ENV_KV_BYTES}\n") + diff.count(f"name: {ENV_KV_BYTES},") == by_variables


def test_the_autoscaler_scales_an_example() -> None:
    """What KEDA asks for is of the Deployment and container of llama-3-8b.yaml."""
    [scaled], [deployment] = documents(EXAMPLES / "autoscaling-keda.yaml"), documents(EXAMPLES / "llama-3-8b.yaml")
    name = deployment["metadata"]["name"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == name
    assert scaled["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    for trigger in scaled["spec"]["triggers"]:
        for label in (f'workload="{name}"', f'container="{container["name"]}"', 'kind="Deployment"'):
            assert label in trigger["metadata"]["query"]


@pytest.mark.parametrize("path", sorted((EXAMPLES / "policies").glob("*.yaml")), ids=lambda path: path.stem)
def test_policies(path: Path) -> None:
    """Each is valid, named as its file, free of settings that contradict themselves, and followed to the end."""
    [raw] = documents(path)
    policy = VLLMPolicy.from_json(raw)
    assert policy.metadata.name == path.stem
    assert contradictions(policy.spec) == ()
    assert not_followed(policy.spec) == ()
    assert policy.spec.mode == ("DryRun" if path.stem in ("observe-only", "preliminary") else "Apply")


def test_policies_that_write_the_defaults_out_say_what_they_are() -> None:
    for name in ("chat", "on-create"):
        [raw] = documents(EXAMPLES / "policies" / f"{name}.yaml")
        assert VLLMPolicy.from_json(raw).spec == VLLMPolicy(metadata={"name": name}).spec


def test_a_policy_that_an_example_names_is_an_example() -> None:
    named = {
        found
        for file in FILES
        for obj in objects_of(file)
        if (found := (obj.get("metadata", {}).get("annotations") or {}).get("vllm-rightsizer.io/policy"))
    }
    assert named == {"cautious", "batch"}
    assert all((EXAMPLES / "policies" / f"{name}.yaml").is_file() for name in named)


def test_pages_name_every_example() -> None:
    """docs/serving.md each that makes pods, docs/policies.md each policy."""
    docs = EXAMPLES.parents[1] / "docs"
    shapes = set(re.findall(r"`([\w-]+)\.yaml`", (docs / "serving.md").read_text()))
    assert shapes == set(FILES)
    rows = set(re.findall(r"^\| `([\w-]+)` \|", (docs / "policies.md").read_text(), re.MULTILINE))
    assert rows == {path.stem for path in (EXAMPLES / "policies").glob("*.yaml")}
