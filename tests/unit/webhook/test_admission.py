"""What becomes of a review: a table of outcomes, and of garbage."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webhook_cases import (
    FLAGS,
    KV_BYTES,
    NAMESPACE_ON,
    UTILIZATION,
    WORKLOAD,
    Form,
    Raw,
    environment,
    knowing,
    patched,
    pod,
    recommended,
    review,
    vector,
)
from webhook_wild_forms import ALL_FORMS

from recommender.api.owner_groups import CustomOwnerGroup
from recommender.api.policies import AutomatedNamespaceSpec, ClusterAutomationSpec
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_AUTO,
    ANNOTATION_CONTAINER,
    ANNOTATION_EXCLUDE,
    ANNOTATION_ORIGINAL_ARGS,
    ANNOTATION_POLICY,
    ANNOTATION_SKIPPED,
)
from webhook.admission import admit
from webhook.knowledge import Knowledge
from webhook.offline import admit_json
from webhook.owners import Owner
from webhook.reviews import NoReviewError
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()
MAIN: Raw = {"name": "main", "image": "vllm/vllm-openai:v0.11.0", "args": ["--model=m"]}


def _outcome(answer: Raw) -> str:
    return str(answer["response"]["auditAnnotations"]["outcome"])


def _reason(answer: Raw) -> str:
    return str(answer["response"]["auditAnnotations"]["reason"])


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [
        ({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}, "no-request"),
        ({"kind": "AdmissionReview", "request": None}, "no-request"),
        (review({"kind": "Deployment"}, kind={"group": "apps", "version": "v1", "kind": "Deployment"}), "not-a-pod"),
        (review({"kind": "Deployment", "spec": {}}), "not-a-pod"),
        (review(None), "not-a-pod"),
        (review(pod(MAIN), operation="UPDATE"), "not-create"),
        (review(pod(MAIN), subResource="eviction"), "not-create"),
        (review(pod(MAIN, annotations={"kubernetes.io/config.mirror": "x"})), "not-a-pod"),
        (review(pod(MAIN, annotations={ANNOTATION_EXCLUDE: "true"})), "excluded"),
        (review(pod({"name": "a", "image": "nginx"})), "not-vllm"),
        (review(pod(MAIN, annotations={ANNOTATION_CONTAINER: "other"})), "not-vllm"),
        (review({"kind": "Pod", "spec": {"containers": 7}}), "error"),
    ],
)
def test_left_alone(asked: Raw, outcome: str) -> None:
    answer = admit(asked, Knowledge(), SETTINGS)
    assert answer["kind"] == "AdmissionReview"
    assert answer["apiVersion"] == "admission.k8s.io/v1"
    assert answer["response"]["allowed"] is True
    assert "patch" not in answer["response"]
    assert _outcome(answer) == outcome
    if outcome in ("no-request", "error") or ANNOTATION_CONTAINER in str(asked):
        assert answer["response"]["warnings"]


def test_before_the_first_snapshot_nothing_is_changed() -> None:
    answer = admit(review(pod(MAIN)), None, SETTINGS)
    assert _outcome(answer) == "not-ready"
    assert "patch" not in answer["response"]


def test_applied() -> None:
    before = pod(MAIN)
    answer = admit(review(before), knowing(before), SETTINGS)
    after = patched(before, answer)
    assert _outcome(answer) == "applied"
    assert answer["response"]["uid"] == "7f3c"
    assert vector(after["spec"]["containers"][0]) == ["--model=m", *FLAGS]
    assert json.loads(after["metadata"]["annotations"][ANNOTATION_APPLIED]) == {"main": FLAGS}
    assert "warnings" not in answer["response"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"paused": True}, "paused"),
        ({"degraded": "HitRateLost"}, "Degraded (HitRateLost)"),
        ({"has_target": False}, "no target"),
        ({"fingerprint": "0" * 16}, "differ from those"),
        ({"fingerprint": None}, "differ from those"),
    ],
)
def test_injected_but_not_sized(changes: dict[str, Any], why: str) -> None:
    before = pod(MAIN)
    answer = admit(review(before), knowing(before, **changes), SETTINGS)
    after = patched(before, answer)
    assert _outcome(answer) == "injected"
    assert why in _reason(answer)
    assert why in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert vector(after["spec"]["containers"][0]) == ["--model=m"]
    assert "PYTHONPATH" in environment(after["spec"]["containers"][0])


_OFF, _ON = ClusterAutomationSpec(vllm_optimize=False), ClusterAutomationSpec(vllm_optimize=True)


@pytest.mark.parametrize(
    ("levels", "outcome"),
    [
        ({}, "injected"),
        ({"cluster": _ON}, "applied"),
        ({"cluster": _OFF, "namespaces": NAMESPACE_ON}, "applied"),
        ({"cluster": _ON, "namespaces": {"prod": AutomatedNamespaceSpec(vllm_optimize=False)}}, "injected"),
        ({"cluster": _ON, "namespaces": {"other": AutomatedNamespaceSpec(vllm_optimize=False)}}, "applied"),
        ({"cluster": _ON, "workload": {ANNOTATION_AUTO: "false"}}, "injected"),
        ({"workload": {"scaleops.sh/default-vllm-auto": "true"}}, "applied"),
        ({"workload": {ANNOTATION_AUTO: "false"}, "pod": {ANNOTATION_AUTO: "true"}}, "applied"),
        ({"cluster": _ON, "workload": {ANNOTATION_EXCLUDE: "true"}}, "excluded"),
        ({"cluster": ClusterAutomationSpec(vllm_optimize=True, mode="DryRun")}, "dry-run"),
        ({"cluster": _ON, "dry": {"careful"}, "workload": {ANNOTATION_POLICY: "careful"}}, "dry-run"),
        ({"cluster": _ON, "dry": {"careful"}}, "applied"),
        ({"cluster": _ON, "dry": {"default"}}, "dry-run"),
    ],
)
def test_who_turns_it_on_or_off(levels: dict[str, Any], outcome: str) -> None:
    before = pod(MAIN, annotations=levels.get("pod", {}))
    knowledge = dataclasses.replace(
        knowing(before),
        cluster=levels.get("cluster"),
        namespaces=levels.get("namespaces", {}),
        dry_run_policies=frozenset(levels.get("dry", ())),
        owners={("prod", WORKLOAD): Owner(levels["workload"], ())} if "workload" in levels else {},
    )
    assert _outcome(admit(review(before), knowledge, SETTINGS)) == outcome


def test_dry_run_shows_the_flags() -> None:
    args = ["--model=m", "--gpu-memory-utilization", "0.9"]
    before = pod({**MAIN, "args": args})
    knowledge = dataclasses.replace(knowing(before), cluster=ClusterAutomationSpec(vllm_optimize=True, mode="DryRun"))
    answer = admit(review(before), knowledge, SETTINGS)
    container = patched(before, answer)["spec"]["containers"][0]
    assert vector(container) == args
    assert "VLLM_RIGHTSIZER_KV_BYTES" not in environment(container)
    assert answer["response"]["warnings"] == [
        f"vllm-rightsizer: DryRun: main would change: - --gpu-memory-utilization 0.9 + {FLAGS[0]} + {FLAGS[1]}"
    ]


_BOTH = {"VLLM_RIGHTSIZER_KV_BYTES": str(KV_BYTES), "VLLM_RIGHTSIZER_ALLOCATION_BYTES": "60000000000"}


@pytest.mark.parametrize(
    ("changes", "pinned", "flags", "overrides"),
    [
        ({}, True, FLAGS, {}),
        ({"vllm_version": "0.10.1.1"}, True, FLAGS[:1], {}),
        ({"vllm_version": "0.10.2"}, True, FLAGS, {}),
        ({"vllm_version": None}, True, FLAGS[:1], {}),
        ({"kv_bytes": 0}, True, FLAGS[:1], {}),
        ({}, False, [], _BOTH),
        ({"one_gpu_size": False}, True, [], _BOTH),
        ({"vllm_version": "0.9.2"}, False, [], {"VLLM_RIGHTSIZER_ALLOCATION_BYTES": "60000000000"}),
    ],
)
def test_flags_by_version_and_gpu(
    changes: dict[str, Any], pinned: bool, flags: list[str], overrides: dict[str, str]
) -> None:
    before = pod(MAIN, pinned=pinned)
    container = patched(before, admit(review(before), knowing(before, **changes), SETTINGS))["spec"]["containers"][0]
    assert vector(container) == ["--model=m", *flags]
    names = ("VLLM_RIGHTSIZER_KV_BYTES", "VLLM_RIGHTSIZER_ALLOCATION_BYTES", "VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION")
    assert {name: value for name, value in environment(container).items() if name in names} == overrides


@pytest.mark.parametrize("option", ["--kv-cache-memory-bytes=5G", "--num-gpu-blocks-override=100"])
def test_what_the_user_fixed_is_respected_unless_the_workload_says_otherwise(option: str) -> None:
    container = {**MAIN, "args": ["--model=m", option]}
    before = pod(container)
    answer = admit(review(before), knowing(before), SETTINGS)
    assert vector(patched(before, answer)["spec"]["containers"][0]) == ["--model=m", option]
    assert option.partition("=")[0] in answer["response"]["warnings"][0]
    forced = pod(container, annotations={ANNOTATION_AUTO: "true"})
    after = patched(forced, admit(review(forced), knowing(forced), SETTINGS))["spec"]["containers"][0]
    if option.startswith("--kv"):
        assert vector(after) == ["--model=m", option, *FLAGS]
    else:
        # A number of blocks beats both flags, so the plugin has to set it aside in process.
        assert vector(after) == ["--model=m", option]
        assert environment(after)["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)


def test_the_users_own_override_is_respected() -> None:
    before = pod({**MAIN, "env": [{"name": "VLLM_RIGHTSIZER_KV_BYTES", "value": "7"}]})
    answer = admit(review(before), knowing(before), SETTINGS)
    after = patched(before, answer)["spec"]["containers"][0]
    assert environment(after)["VLLM_RIGHTSIZER_KV_BYTES"] == "7"
    assert vector(after) == ["--model=m"]


def test_kvcached_is_left_alone() -> None:
    before = pod({**MAIN, "env": [{"name": "ENABLE_KVCACHED", "value": "true"}]})
    assert "kvcached" in _reason(admit(review(before), knowing(before), SETTINGS))


def test_the_named_container_is_the_engine() -> None:
    before = pod(
        {"name": "main", "image": "corp/llm", "command": ["/serve"]}, annotations={ANNOTATION_CONTAINER: "main"}
    )
    after = patched(before, admit(review(before), knowing(before), SETTINGS))["spec"]["containers"][0]
    assert environment(after)["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)
    assert environment(after)["VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION"] == UTILIZATION


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: form.name)
def test_a_second_pass_changes_nothing(form: Form) -> None:
    before = pod(form.container())
    knowledge = knowing(before)
    after = patched(before, admit(review(before), knowledge, SETTINGS))
    assert "patch" not in admit(review(after), knowledge, SETTINGS)["response"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"kv_bytes": 1 << 30, "utilization": "0.2000"}),
        ({}, {"one_gpu_size": False}),
        ({"one_gpu_size": False}, {}),
        ({"paused": True}, {}),
        ({}, {"paused": True}),
        ({"one_gpu_size": False}, {"degraded": "HitRateLost"}),
        ({"vllm_version": "0.9.0", "one_gpu_size": False}, {"one_gpu_size": False}),
    ],
)
@pytest.mark.parametrize("container", [MAIN, {**MAIN, "command": ["sh", "-c", "vllm serve m"], "args": []}])
def test_a_second_pass_with_other_values_replaces_the_first(first: Raw, second: Raw, container: Raw) -> None:
    before = pod(container)
    once = patched(before, admit(review(before), knowing(before, **first), SETTINGS))
    twice = patched(once, admit(review(once), knowing(before, **second), SETTINGS))
    straight = patched(before, admit(review(before), knowing(before, **second), SETTINGS))
    for result in (twice, straight):
        # Where the first pass changed the list and the second only the environment, the note of the original remains.
        result["metadata"]["annotations"].pop(ANNOTATION_ORIGINAL_ARGS, None)
        result["spec"]["containers"][0]["env"].sort(key=lambda entry: entry["name"])
    assert vector(twice["spec"]["containers"][0]) == vector(straight["spec"]["containers"][0])
    assert twice["metadata"] == straight["metadata"]
    assert environment(twice["spec"]["containers"][0]) == environment(straight["spec"]["containers"][0])


@pytest.mark.parametrize(
    "form", [form for form in ALL_FORMS if isinstance(form.becomes, list)], ids=lambda form: form.name
)
def test_another_webhook_between_two_passes(form: Form) -> None:
    """It adds an option behind ours, and one in front of all: ours are last again, once, and theirs are kept."""
    before = pod(form.container())
    once = patched(before, admit(review(before), knowing(before), SETTINGS))
    container = once["spec"]["containers"][0]
    whole = "args" if container.get("args") else "command"
    container[whole] = [*container[whole], "--api-key=k"]
    theirs = [token for token in [*vector(container)] if token not in FLAGS]
    # The recommendation was made for the pod as it runs, with the other webhook's option.
    knowledge = knowing(once)
    twice = patched(once, admit(review(once), knowledge, SETTINGS))
    tokens = vector(twice["spec"]["containers"][0])
    assert [token for token in tokens if token not in FLAGS] == theirs
    assert [token for token in tokens if token in FLAGS] == FLAGS
    at = tokens.index(FLAGS[0])
    assert tokens[at : at + 2] == FLAGS
    assert at + 2 == len(tokens) or tokens[at + 2] == "--"
    assert json.loads(twice["metadata"]["annotations"][ANNOTATION_ORIGINAL_ARGS]) == {"main": theirs}
    assert "patch" not in admit(review(twice), knowledge, SETTINGS)["response"]


def test_annotations_never_outgrow_what_kubernetes_takes() -> None:
    before = pod({**MAIN, "args": ["--model=m", "--x=" + "y" * 300_000]})
    after = patched(before, admit(review(before), knowing(before), SETTINGS))
    assert ANNOTATION_ORIGINAL_ARGS not in after["metadata"]["annotations"]
    assert ANNOTATION_APPLIED in after["metadata"]["annotations"]
    assert after["spec"]["containers"][0]["args"][-2:] == FLAGS


def test_warnings_are_short_single_lines() -> None:
    name = "x" * 300
    before = pod(MAIN, annotations={ANNOTATION_CONTAINER: f"é\n{name}"})
    warning = admit(review(before), Knowledge(), SETTINGS)["response"]["warnings"][0]
    assert len(warning.encode()) <= 256
    assert "\n" not in warning


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=150)
@given(_json)
def test_any_json_is_allowed(value: Any) -> None:
    for asked in (value, {"kind": "AdmissionReview", "request": value}, review(value), review({"spec": value})):
        response = admit(asked, Knowledge(), SETTINGS)["response"]
        assert response["allowed"] is True
        assert "patch" not in response


@settings(max_examples=300)
@given(data=st.data())
def test_any_damage_to_a_pod_is_allowed(data: st.DataObject) -> None:
    """One field anywhere in a real pod becomes anything: the pod is allowed, and what patch there is applies."""
    whole = pod(
        {
            **copy.deepcopy(MAIN),
            "env": [{"name": "PYTHONPATH", "value": "/a"}],
            "ports": [{"containerPort": 80}],
            "volumeMounts": [],
        },
        annotations={"a": "b"},
    )
    knowledge = knowing(whole)
    node: Any = whole
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            break
        node = inner
    node[key] = data.draw(_json)
    answer = admit(review(whole), knowledge, SETTINGS)
    assert answer["response"]["allowed"] is True
    assert answer["response"]["uid"] == "7f3c"
    patched(whole, answer)


def test_admit_json(tmp_path: Any) -> None:
    answer = json.loads(admit_json(json.dumps(review(pod(MAIN))).encode(), None))
    assert answer["response"]["allowed"] is True
    assert json.loads(admit_json(json.dumps(review(pod(MAIN))).encode(), tmp_path)) == answer
    with pytest.raises(ValueError, match="no folder"):
        admit_json(json.dumps(review(pod(MAIN))).encode(), tmp_path / "missing")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[1]", "JSON list"),
        (b'"x"', "JSON str"),
        (b"{}", "kind None"),
        (b'{"kind": "Pod"}', "kind 'Pod'"),
        (b"[" * 200_000, "no JSON"),
    ],
)
def test_no_review_at_all(body: bytes, why: str) -> None:
    with pytest.raises(NoReviewError, match=why):
        admit_json(body, None)


def test_what_a_deployment_says_holds_in_a_group_of_the_users_own_too() -> None:
    before = pod(MAIN)
    before["metadata"]["labels"] = {**before["metadata"]["labels"], "team": "a"}
    group = CustomOwnerGroup(name="teams", by_labels=["team"])
    cluster = ClusterAutomationSpec(vllm_optimize=True, custom_owner_groups=[group])
    grouped = WorkloadRef("vllm-rightsizer.io", "OwnerGroup", "teams.a")
    known = Knowledge(recommendations={("prod", grouped, "main"): recommended(before)}, cluster=cluster)
    assert _outcome(admit(review(before), known, SETTINGS)) == "applied"
    key = ("prod", WORKLOAD)
    for said, outcome in ((ANNOTATION_EXCLUDE, "excluded"), (ANNOTATION_POLICY, "dry-run")):
        knowledge = dataclasses.replace(
            known, owners={key: Owner({said: "true"}, ())}, dry_run_policies=frozenset({"true"})
        )
        assert _outcome(admit(review(before), knowledge, SETTINGS)) == outcome


def _group_pod(name: str, index: str) -> Raw:
    before = pod({**MAIN, "name": name})
    labels = {"leaderworkerset.sigs.k8s.io/name": "g", "leaderworkerset.sigs.k8s.io/worker-index": index}
    before["metadata"] = {"labels": labels, "annotations": {}}
    return before


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "applied"),
        ({"paused": True}, "injected"),
        ({"degraded": "HitRateLost"}, "injected"),
        ({"has_target": False}, "injected"),
    ],
)
def test_a_group_is_rewritten_as_a_whole_or_not_at_all(changes: dict[str, Any], outcome: str) -> None:
    """A worker stays as it is where its leader's recommendation does not hold, and the other way round."""
    leader, worker = _group_pod("leader", "0"), _group_pod("worker", "1")
    one, other = knowing(leader, "leader"), knowing(worker, "worker", **changes)
    knowledge = dataclasses.replace(one, recommendations={**one.recommendations, **other.recommendations})
    for member in (leader, worker):
        assert _outcome(admit(review(member), knowledge, SETTINGS)) == outcome


def test_another_namespaces_group_of_the_same_name_does_not_matter() -> None:
    leader = _group_pod("leader", "0")
    known = knowing(leader, "leader")
    [(_, workload, container)] = known.recommendations
    elsewhere = knowing(leader, "leader", paused=True).recommendations["prod", workload, container]
    both = {**known.recommendations, ("dev", workload, container): elsewhere}
    knowledge = dataclasses.replace(known, recommendations=both)
    assert _outcome(admit(review(leader), knowledge, SETTINGS)) == "applied"


def test_vllms_own_init_container_is_no_engine_and_a_ray_worker_is() -> None:
    """A Ray worker has none of vLLM's arguments, and an engine's rank runs in it all the same."""
    worker = pod(
        {
            "name": "main",
            "image": "rayproject/ray-llm:2.52",
            "command": ["/bin/bash", "-c", "--"],
            "args": ["ulimit -n 65536; ray start --address=head:6379 --block"],
            "resources": {"limits": {"nvidia.com/gpu": "1"}},
        }
    )
    worker["spec"]["initContainers"] = [{"name": "warm", "image": MAIN["image"], "args": ["--model=m"]}]
    after = patched(worker, admit(review(worker), knowing(worker), SETTINGS))
    assert after["spec"]["initContainers"] == worker["spec"]["initContainers"]
    assert environment(after["spec"]["containers"][0])["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)
