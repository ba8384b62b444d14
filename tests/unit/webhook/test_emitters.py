"""The size in each GPU scheduler's words, held against what that scheduler's admission and arithmetic take.

The rules stand in the schedulers' own sources; each test names the file.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook_cases import FLAGS, KV_BYTES, WORKLOAD, Raw, environment, knowing, patched, pod, review, vector

from recommender.api.claims import claim_spec, claim_template, claim_template_name
from recommender.api.fingerprints import fingerprint
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.recommendations import RecommendationSpec, TargetRef, VLLMRecommendation
from recommender.api.savings import SavingsSplit, split_savings
from recommender.api.sharing import EMITTERS, Emitted, as_written, emitted_of
from vllm_plugin.names import (
    ANNOTATION_AUTO,
    ANNOTATION_EMITTED,
    ANNOTATION_EMITTER,
    ANNOTATION_SKIPPED,
    ENV_ALLOCATION_BYTES,
)
from webhook.admission import admit
from webhook.emitters.rounding import GIBIBYTE, MEBIBYTE, OUTSIDE_BYTES, fraction, request_bytes
from webhook.owners import Owner
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()
ALLOCATION = 20 * GIBIBYTE + 1
CARD = 80 * GIBIBYTE
MAIN: Raw = {
    "name": "main",
    "image": "vllm/vllm-openai:v0.11.0",
    "args": ["--model=m"],
    "resources": {"limits": {"nvidia.com/gpu": "1"}, "requests": {"nvidia.com/gpu": "1", "cpu": "4"}},
}
KAI = {"spec": {"schedulerName": "kai-scheduler"}, "labels": {"kai.scheduler/queue": "team"}}
MIB = str(-(-(ALLOCATION + OUTSIDE_BYTES) // MEBIBYTE))


def _pod(*more: Raw, main: Raw | None = None, **changes: Any) -> Raw:
    before = copy.deepcopy(pod({**MAIN, **(main or {})}, annotations=changes.get("annotations", {})))
    before["spec"]["containers"] += copy.deepcopy(more)
    before["spec"] |= changes.get("spec", {})
    before["metadata"]["labels"] = {**before["metadata"].get("labels", {}), **changes.get("labels", {})}
    return before


def _knowing(before: Raw, emitter: str, **changes: Any) -> Any:
    values = {"allocation_bytes": ALLOCATION, "largest_gpu_bytes": CARD, **changes}
    known = knowing(before, **values)
    return dataclasses.replace(known, cluster=ClusterAutomationSpec(vllm_optimize=True, emitter=emitter))


def _emitted(before: Raw, emitter: str, **changes: Any) -> tuple[Raw, Raw]:
    """The pod afterwards, and its main container."""
    known = _knowing(before, emitter, **changes)
    answer = admit(review(before), known, SETTINGS)
    after = patched(before, answer)
    assert emitter == "none" or f"{emitter}: " in answer["response"]["auditAnnotations"]["reason"]
    assert "patch" not in admit(review(after), known, SETTINGS)["response"]
    assert as_written(after)["spec"]["containers"][0]["resources"] == before["spec"]["containers"][0]["resources"]
    assert fingerprint(after, "main") == fingerprint(before, "main")
    return after, next(item for item in after["spec"]["containers"] if item["name"] == "main")


def _declined(before: Raw, emitter: str, why: str, **changes: Any) -> None:
    """Sized, and its GPUs stay as they are."""
    known = _knowing(before, emitter, **changes)
    after = patched(before, admit(review(before), known, SETTINGS))
    assert why in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert emitted_of(after) is None
    for one, other in zip(after["spec"]["containers"], before["spec"]["containers"], strict=True):
        assert one.get("resources") == other.get("resources")
    assert after["spec"].get("schedulerName") == before["spec"].get("schedulerName")
    assert "patch" not in admit(review(after), known, SETTINGS)["response"]


@given(st.integers(1, 1 << 50), st.sampled_from([1, MEBIBYTE, GIBIBYTE]))
def test_requests_are_rounded_up_to_whole_units(allocation: int, unit: int) -> None:
    request = request_bytes(allocation, unit)
    assert request % unit == 0
    assert allocation + OUTSIDE_BYTES <= request < allocation + OUTSIDE_BYTES + unit
    share = fraction(allocation, request)
    assert float(share) <= 1
    assert float(share) * request >= allocation


def test_none_writes_nothing() -> None:
    after, main = _emitted(_pod(), "none")
    assert main["resources"] == MAIN["resources"]
    assert emitted_of(after) is None
    assert vector(main)[-2:] == FLAGS


# Project-HAMi/HAMi: pkg/device/nvidia/device.go (GenerateResourceRequests: a plain integer up to 2^31 - 1, in MiB, for
# each of nvidia.com/gpu; defaultExclusiveCoreIfNeeded: all cores where no memory is asked for),
# pkg/scheduler/webhook.go (no privileged container, no node named), examples/nvidia/vllm_cross_vgpu.yaml (no CUDA IPC
# between vGPUs).
def test_hami() -> None:
    after, main = _emitted(_pod(), "hami")
    for kind in ("limits", "requests"):
        assert main["resources"][kind]["nvidia.com/gpumem"] == MIB
        assert main["resources"][kind]["nvidia.com/gpu"] == "1"
    # The process sees its slice as the device's total, whatever the card is.
    slice_bytes = int(MIB) * MEBIBYTE
    assert vector(main)[-2] == f"--gpu-memory-utilization={fraction(ALLOCATION, slice_bytes)}"
    assert emitted_of(after) == Emitted("hami", slice_bytes, emitted_of(after).edits)  # type: ignore[union-attr]


@pytest.mark.parametrize("changes", [{"one_gpu_size": False}, {}])
def test_hamis_fraction_needs_no_product(changes: Raw) -> None:
    before = _pod()
    before["spec"].pop("nodeSelector", None)
    _, main = _emitted(before, "hami", **changes)
    assert vector(main)[-2].startswith("--gpu-memory-utilization=0.95")


def test_hami_all_cores_go() -> None:
    resources = {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpucores": "100"}}
    _, main = _emitted(_pod(main={"resources": resources}), "hami")
    assert "nvidia.com/gpucores" not in main["resources"]["limits"]
    resources = {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpucores": "50"}}
    _, main = _emitted(_pod(main={"resources": resources}), "hami")
    assert main["resources"]["limits"]["nvidia.com/gpucores"] == "50"


TWO_GPUS = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (_pod({"name": "p", "securityContext": {"privileged": True}}), "privileged"),
        (_pod(spec={"nodeName": "n1"}), "names its node"),
        (_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "9000"}}}), "gpumem"),
        (_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"}}}), "share"),
        (_pod(main={"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}), "MIG"),
        (_pod(main={"resources": {"limits": {"amd.com/gpu": "1"}}}), "no nvidia.com/gpu"),
        (_pod({"name": "other", "resources": {"limits": {"nvidia.com/gpu": "1"}}}), "other asks for GPUs too"),
        (_pod(main=TWO_GPUS), "--disable-custom-all-reduce"),
        (_pod(labels={"leaderworkerset.sigs.k8s.io/name": "g"}), "pods of a group"),
    ],
)
def test_hami_declines(before: Raw, why: str) -> None:
    _declined(before, "hami", why)


def test_a_group_of_one_is_none() -> None:
    group = {"leaderworkerset.sigs.k8s.io/name": "g"}
    before = _pod(labels=group, annotations={"leaderworkerset.sigs.k8s.io/size": "1"})
    _, main = _emitted(before, "hami")
    assert main["resources"]["limits"]["nvidia.com/gpumem"] == MIB


def test_hami_on_two_gpus() -> None:
    main = {**TWO_GPUS, "args": ["--model=m", "--tensor-parallel-size=2", "--disable-custom-all-reduce"]}
    _, after = _emitted(_pod(main=main), "hami")
    assert after["resources"]["limits"] == {"nvidia.com/gpu": "2", "nvidia.com/gpumem": MIB}


@pytest.mark.parametrize("largest", [0, 21 * GIBIBYTE])
def test_no_more_is_asked_for_than_a_card_has(largest: int) -> None:
    _declined(_pod(), "hami", "more than any GPU seen has", largest_gpu_bytes=largest)


# kai-scheduler/KAI-Scheduler: pkg/binder/plugins/gpusharing/gpu-request/gpu_request_validator.go (gpu-memory: a whole
# number above zero, beside no nvidia.com/gpu of any container and no gpu-fraction; gpu-fraction-num-devices only beside
# one of the two), pkg/admission/webhook/v1alpha2/deviceaccess/device_access.go (NVIDIA_VISIBLE_DEVICES nowhere else),
# pkg/operator/operands/admission/resources.go (its webhook sees pods of its scheduler only), docs/gpu-sharing (queue).
def test_kai() -> None:
    after, main = _emitted(_pod(**KAI), "kai")
    assert after["metadata"]["annotations"]["gpu-memory"] == MIB
    assert "nvidia.com/gpu" not in {**main["resources"]["limits"], **main["resources"]["requests"]}
    assert main["resources"]["requests"] == {"cpu": "4"}
    assert "gpu-fraction-container-name" not in after["metadata"]["annotations"]
    # Nothing keeps to it, and the process sees the whole card.
    assert vector(main)[-2:] == FLAGS


def test_kai_names_the_container_that_is_not_the_first() -> None:
    before = _pod(**KAI)
    before["spec"]["containers"].insert(0, {"name": "proxy", "image": "p"})
    known = _knowing(before, "kai")
    annotations = patched(before, admit(review(before), known, SETTINGS))["metadata"]["annotations"]
    assert annotations["gpu-fraction-container-name"] == "main"


def test_kai_on_two_gpus() -> None:
    after, _ = _emitted(_pod(main=TWO_GPUS, **KAI), "kai")
    assert after["metadata"]["annotations"]["gpu-fraction-num-devices"] == "2"


def test_what_kai_adds_itself_changes_no_fingerprint() -> None:
    """It puts gpu-memory into further words, and notes the GPUs that it found."""
    before = _pod(**KAI)
    after, _ = _emitted(before, "kai")
    after["metadata"]["annotations"]["nvidia.com/container.main.gpu-memory.request"] = f"{MIB}Mi"
    after["metadata"]["annotations"]["nvidia.com/container.main.gpus.devices"] = "GPU-1"
    assert fingerprint(after, "main") == fingerprint(before, "main")


_SECOND = {**MAIN, "name": "second"}


@pytest.mark.parametrize("emitter", ["kai", "kai-nvfractions"])
@pytest.mark.parametrize(
    ("before", "why"),
    [
        (_pod(spec=KAI["spec"]), "no label kai.scheduler/queue"),
        (_pod(labels=KAI["labels"]), "schedulerName is not kai-scheduler"),
        (_pod(labels=KAI["labels"], spec={"schedulerName": "volcano"}), "schedulerName is not kai-scheduler"),
        (_pod({"name": "o", "resources": {"limits": {"nvidia.com/gpu": "1"}}}, **KAI), "o asks for GPUs too"),
        (_pod({"name": "o", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}, **KAI), "o sets NVIDIA"),
        (_pod(annotations={"gpu-fraction": "0.5"}, **KAI), "gpu-fraction"),
        (_pod(annotations={"gpu-memory": "4096"}, **KAI), "gpu-memory"),
        (_pod(annotations={"nvidia.com/container.main.gpu-memory.request": "4Gi"}, **KAI), "share of a GPU already"),
    ],
)
def test_kai_declines(before: Raw, why: str, emitter: str) -> None:
    _declined(before, emitter, why)


def test_kai_leaves_other_containers_without_devices() -> None:
    _emitted(_pod({"name": "o", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}, **KAI), "kai")


# kai-scheduler/KAI-Scheduler: docs/gpu-sharing/README.md and pkg/admission/webhook/v1alpha2/nvfractions/validation.go
# (one container of a pod, which is there; quantities above zero, request at most limit; .gpus.devices is KAI's own);
# kai-scheduler/gpu-fractioning: annotations (at least 1 MiB, rounded up to whole MiB).
def test_kai_nvfractions() -> None:
    after, main = _emitted(_pod(**KAI), "kai-nvfractions")
    annotations = after["metadata"]["annotations"]
    assert annotations["nvidia.com/container.main.gpu-memory.request"] == f"{MIB}Mi"
    assert annotations["nvidia.com/container.main.gpu-memory.limit"] == f"{MIB}Mi"
    assert "nvidia.com/gpu" not in main["resources"]["limits"]
    # What the process sees is not known: bytes, and the fraction in process.
    assert environment(main)[ENV_ALLOCATION_BYTES] == str(ALLOCATION)
    assert vector(main) == ["--model=m"]


def test_kai_nvfractions_declines_a_long_name() -> None:
    before = _pod(**KAI)
    before["spec"]["containers"][0]["name"] = "m" * 40
    known = dataclasses.replace(
        knowing(before, "m" * 40, allocation_bytes=ALLOCATION, largest_gpu_bytes=CARD),
        cluster=ClusterAutomationSpec(vllm_optimize=True, emitter="kai-nvfractions"),
    )
    after = patched(before, admit(review(before), known, SETTINGS))
    assert "too long a name" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]


# volcano-sh/volcano: pkg/scheduler/api/devices/util.go (ExtractResourceRequest: limits of plain containers, whole
# numbers, memory for each of vgpu-number), docs/user-guide/how_to_use_volcano_vgpu.md (schedulerName, MiB).
def test_volcano() -> None:
    after, main = _emitted(_pod(), "volcano")
    words = {"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": MIB}
    assert main["resources"] == {"limits": words, "requests": {"cpu": "4", **words}}
    assert after["spec"]["schedulerName"] == "volcano"
    assert vector(main)[-2] == f"--gpu-memory-utilization={fraction(ALLOCATION, int(MIB) * MEBIBYTE)}"


@pytest.mark.parametrize("scheduler", ["volcano", "default-scheduler"])
def test_volcano_schedules(scheduler: str) -> None:
    after, _ = _emitted(_pod(spec={"schedulerName": scheduler}), "volcano")
    assert after["spec"]["schedulerName"] == "volcano"


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (_pod(spec={"schedulerName": "kai-scheduler"}), "scheduler is kai-scheduler"),
        (_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1", "volcano.sh/vgpu-number": "1"}}}), "vgpu-number"),
    ],
)
def test_volcano_declines(before: Raw, why: str) -> None:
    _declined(before, "volcano", why)


def _as_sidecar(before: Raw) -> Raw:
    engine = {**before["spec"]["containers"][0], "restartPolicy": "Always"}
    before["spec"] |= {"initContainers": [engine], "containers": [{"name": "app", "image": "a"}]}
    return before


@pytest.mark.parametrize("emitter", ["volcano", "gpushare"])
def test_sidecars_are_not_counted_by_all(emitter: str) -> None:
    before = _as_sidecar(_pod())
    after = patched(before, admit(review(before), _knowing(before, emitter), SETTINGS))
    assert "is a sidecar" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert after["spec"]["initContainers"][0]["resources"] == MAIN["resources"]


def test_hami_counts_sidecars() -> None:
    before = _as_sidecar(_pod())
    after = patched(before, admit(review(before), _knowing(before, "hami"), SETTINGS))
    assert after["spec"]["initContainers"][0]["resources"]["limits"]["nvidia.com/gpumem"] == MIB


# AliyunContainerService/gpushare-scheduler-extender: pkg/utils/pod.go (limits of plain containers, added up),
# pkg/cache/nodeinfo.go (allocateGPUID: one device for the whole pod), docs/userguide.md (GiB).
def test_gpushare() -> None:
    _, main = _emitted(_pod(), "gpushare")
    gibibytes = str(-(-(ALLOCATION + OUTSIDE_BYTES) // GIBIBYTE))
    assert main["resources"]["limits"] == {"aliyun.com/gpu-mem": gibibytes}
    assert vector(main)[-2:] == FLAGS


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (_pod(main=TWO_GPUS), "uses 2 GPUs"),
        (_pod(main={"resources": {"limits": {"aliyun.com/gpu-mem": "8"}}}), "aliyun.com/gpu-mem"),
    ],
)
def test_gpushare_declines(before: Raw, why: str) -> None:
    _declined(before, "gpushare", why)


# kubernetes/api: resource/v1/types.go (ExactDeviceRequest.capacity, DeviceConstraint.distinctAttribute),
# core/v1/types.go (PodResourceClaim: a name of its own and one template; ResourceRequirements.claims names it).
NAME = "deployment-llama-main-0a1b2c3d"


@pytest.mark.parametrize("gpus", [1, 2])
def test_dra(gpus: int) -> None:
    before = _pod(main={"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}})
    template = claim_template_name(NAME, int(MIB) * MEBIBYTE, gpus)
    after, main = _emitted(before, "dra", claim_template=template)
    [claim] = after["spec"]["resourceClaims"]
    assert claim == {"name": "vllm-rightsizer-gpu", "resourceClaimTemplateName": template}
    assert main["resources"]["claims"] == [{"name": claim["name"]}]
    assert "nvidia.com/gpu" not in main["resources"]["limits"]
    assert environment(main)[ENV_ALLOCATION_BYTES] == str(ALLOCATION)


@pytest.mark.parametrize("template", [None, f"{NAME}-00000000"])
def test_dra_waits_for_its_template(template: str | None) -> None:
    _declined(_pod(), "dra", "not there yet", claim_template=template)


def test_dra_leaves_claims_of_the_authors_own() -> None:
    claims = [{"name": "nic", "resourceClaimTemplateName": "rdma"}]
    _declined(_pod(spec={"resourceClaims": claims}), "dra", "spec.resourceClaims")


def test_the_claims_template() -> None:
    owner = VLLMRecommendation.from_json(
        {
            "kind": "VLLMRecommendation",
            "metadata": {"name": NAME, "namespace": "prod", "uid": "u"},
            "spec": RecommendationSpec(
                target_ref=TargetRef(group="apps", kind="Deployment", name="llama", container="main")
            ).to_json(),
        }
    )
    built = claim_template(owner, 21 * GIBIBYTE + 1, 2)
    assert built["metadata"]["name"] == claim_template_name(NAME, 21 * GIBIBYTE + 1, 2)
    assert built["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] is False
    devices = built["spec"]["spec"]["devices"]
    assert devices["requests"][0]["exactly"]["capacity"] == {"requests": {"memory": f"{21 * 1024 + 1}Mi"}}
    assert devices["requests"][0]["exactly"]["count"] == 2
    assert devices["constraints"] == [{"requests": ["gpu"], "distinctAttribute": "gpu.nvidia.com/uuid"}]
    assert "constraints" not in claim_spec(1, 1)["devices"]
    assert claim_template_name(NAME, 1, 1) != claim_template_name(NAME, 1, 2)


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ({"cluster": "hami"}, "nvidia.com/gpumem"),
        ({"cluster": "hami", "workload": "gpushare"}, "aliyun.com/gpu-mem"),
        ({"cluster": "hami", "workload": "gpushare", "pod": "volcano"}, "volcano.sh/vgpu-memory"),
        ({"cluster": "hami", "pod": "none"}, "nvidia.com/gpu"),
        ({"pod": "hami"}, "nvidia.com/gpumem"),
    ],
)
def test_who_chooses_the_emitter(levels: dict[str, str], words: str) -> None:
    annotations = {ANNOTATION_EMITTER: levels["pod"]} if "pod" in levels else {}
    before = _pod(annotations=annotations)
    known = _knowing(before, levels.get("cluster", "none"))
    if "workload" in levels:
        key = ("prod", WORKLOAD)
        known = dataclasses.replace(known, owners={key: Owner({ANNOTATION_EMITTER: levels["workload"]}, ())})
    after = patched(before, admit(review(before), known, SETTINGS))
    limits = after["spec"]["containers"][0]["resources"]["limits"]
    assert words in limits
    assert len(limits) == 2 or words != "nvidia.com/gpumem"


def test_an_emitter_that_nobody_knows() -> None:
    before = _pod(annotations={ANNOTATION_EMITTER: "hammi"})
    answer = admit(review(before), _knowing(before, "none"), SETTINGS)
    after = patched(before, answer)
    assert "there is no emitter 'hammi'" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert "hammi" in " ".join(answer["response"]["warnings"])


def test_not_all_engines_sized() -> None:
    before = _pod({**MAIN, "name": "second"})
    _declined(before, "hami", "not all of the pod's engines")


def test_two_engines_have_each_their_share() -> None:
    before = _pod(_SECOND)
    known = _knowing(before, "hami")
    [recommended] = known.recommendations.values()
    other = dataclasses.replace(recommended, fingerprint=fingerprint(before, "second"), allocation_bytes=GIBIBYTE)
    known = dataclasses.replace(known, recommendations={**known.recommendations, ("prod", WORKLOAD, "second"): other})
    after = patched(before, admit(review(before), known, SETTINGS))
    first, second = after["spec"]["containers"]
    assert first["resources"]["limits"]["nvidia.com/gpumem"] == MIB
    assert second["resources"]["limits"]["nvidia.com/gpumem"] == "2048"
    assert emitted_of(after).request_bytes == int(MIB) * MEBIBYTE  # type: ignore[union-attr]
    kai = {**known.__dict__, "cluster": ClusterAutomationSpec(vllm_optimize=True, emitter="gpushare")}
    after = patched(before, admit(review(before), type(known)(**kai), SETTINGS))
    assert "one container of a pod" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]


@pytest.mark.parametrize("first", EMITTERS)
@pytest.mark.parametrize("second", EMITTERS)
def test_a_second_pass_in_other_words_undoes_the_first(first: str, second: str) -> None:
    before = _pod(**KAI)
    template = claim_template_name(NAME, int(MIB) * MEBIBYTE, 1)
    one, two = (_knowing(before, emitter, claim_template=template) for emitter in (first, second))
    once = patched(before, admit(review(before), one, SETTINGS))
    twice = patched(once, admit(review(once), two, SETTINGS))
    straight = patched(before, admit(review(before), two, SETTINGS))
    for result in (twice, straight):
        # Removing the last claim leaves an empty place where none was.
        result["metadata"]["annotations"].pop("vllm-rightsizer.io/original-args", None)
        result["spec"]["containers"][0]["env"].sort(key=lambda entry: entry["name"])
        text = result["metadata"]["annotations"].pop(ANNOTATION_EMITTED, "{}")
        result["edits"] = sorted(map(json.dumps, json.loads(text).get("edits", ())))
    assert twice == straight


def test_back_to_whole_gpus_where_nothing_is_recommended_any_more() -> None:
    before = _pod()
    once = patched(before, admit(review(before), _knowing(before, "volcano"), SETTINGS))
    back = patched(once, admit(review(once), _knowing(before, "volcano", paused=True), SETTINGS))
    assert back["spec"]["containers"][0]["resources"] == MAIN["resources"]
    assert not back["spec"].get("schedulerName")
    assert ANNOTATION_EMITTED not in back["metadata"]["annotations"]
    assert vector(back["spec"]["containers"][0]) == ["--model=m"]


def test_what_others_changed_since_stays() -> None:
    before = _pod()
    once = patched(before, admit(review(before), _knowing(before, "hami"), SETTINGS))
    once["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpumem"] = "1"
    assert as_written(once)["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpumem"] == "1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"emitter": "hami"}',
        '{"emitter": "none", "bytes": true, "edits": []}',
        '{"emitter": "x", "bytes": 1, "edits": []}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["image"], "a", "b"]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [[null, ["spec", "hostPID"], null, true]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [[null]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources"], null, 7]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources", "limits", "cpu"], null, "1"]]}',
        '{"emitter": "hami", "bytes": 1, "edits": [["main", ["resources", "limits", "nvidia.com/gpu"], null, "x"]]}',
        '{"emitter": "kai", "bytes": 1, "edits": [[null, ["metadata", "annotations"], null, {"a": 1}]]}',
        '{"emitter": "kai", "bytes": 1, "edits": [[null, ["metadata", "annotations", "gpu-memory"], null, 7]]}',
        '{"emitter": "volcano", "bytes": 1, "edits": [[null, ["spec", "schedulerName"], null, {}]]}',
        '{"emitter": "dra", "bytes": 1, "edits": [[null, ["spec", "resourceClaims"], null, [{"name": 1}]]]}',
        '{"emitter": "dra", "bytes": 1, "edits": [["main", ["resources", "claims"], null, ["gpu"]]]}',
        "[" * 20_000,
    ],
)
def test_a_record_that_we_would_not_write_is_none(text: str) -> None:
    before = _pod(annotations={ANNOTATION_EMITTED: text, ANNOTATION_AUTO: "true"})
    assert emitted_of(before) is None
    assert as_written(before) is before


def test_no_share_where_it_could_not_be_noted() -> None:
    before = _pod(main={"resources": {"limits": {"nvidia.com/gpu": "1"}}})
    before["spec"]["containers"][0]["name"] = "m" * 9000
    known = knowing(before, "m" * 9000, allocation_bytes=ALLOCATION, largest_gpu_bytes=CARD)
    known = dataclasses.replace(known, cluster=ClusterAutomationSpec(vllm_optimize=True, emitter="hami"))
    after = patched(before, admit(review(before), known, SETTINGS))
    assert "would be too long" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert "patch" not in admit(review(after), known, SETTINGS)["response"]


def test_dry_run_shows_the_share() -> None:
    before = _pod()
    known = dataclasses.replace(
        _knowing(before, "hami"), cluster=ClusterAutomationSpec(vllm_optimize=True, emitter="hami", mode="DryRun")
    )
    answer = admit(review(before), known, SETTINGS)
    after = patched(before, answer)
    assert after["spec"]["containers"][0]["resources"] == MAIN["resources"]
    assert f"+ nvidia.com/gpumem: {MIB}" in answer["response"]["warnings"][0]


@pytest.mark.parametrize(
    ("saved", "request_", "split"),
    [
        (52, None, (0, 52)),
        (52, 21, (52, 0)),
        (52, 40, (40, 12)),
        (52, 90, (0, 52)),
        (0, 21, (0, 0)),
        (-5, 21, (0, -5)),
    ],
)
def test_bankable_and_potential(saved: int, request_: int | None, split: tuple[int, int]) -> None:
    emitted = None if request_ is None else Emitted("hami", request_, ())
    assert split_savings(saved, 80, emitted) == SavingsSplit(*split)


def test_the_users_own_bytes_still_hold() -> None:
    before = _pod(main={"args": ["--model=m", "--kv-cache-memory-bytes=1G"]})
    after = patched(before, admit(review(before), _knowing(before, "hami"), SETTINGS))
    assert "nvidia.com/gpumem" not in after["spec"]["containers"][0]["resources"]["limits"]
    assert str(KV_BYTES) not in str(after["spec"])
