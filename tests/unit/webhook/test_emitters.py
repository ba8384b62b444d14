"""The size in each GPU scheduler's words, held against what that scheduler's admission and arithmetic take.

The rules stand in the schedulers' own sources; each test names the file.
"""

from __future__ import annotations

import dataclasses

import pytest
from emitted_pods import ALLOCATION, CARD, KAI, MAIN, MIB, NAME, SETTINGS, a_pod, declined, emitted, knowing_size
from hypothesis import given
from hypothesis import strategies as st
from webhook_cases import FLAGS, Raw, environment, knowing, patched, review, vector

from recommender.api.claims import claim_spec, claim_template, claim_template_name
from recommender.api.fingerprints import fingerprint
from recommender.api.policies import ClusterAutomationSpec
from recommender.api.recommendations import RecommendationSpec, TargetRef, VLLMRecommendation
from recommender.api.rounding import GIBIBYTE, MEBIBYTE, OUTSIDE_BYTES, fraction, request_bytes
from recommender.api.sharing import Emitted, emitted_of
from vllm_plugin.names import (
    ANNOTATION_SKIPPED,
    ENV_ALLOCATION_BYTES,
)
from webhook.admission import admit


@given(st.integers(1, 1 << 50), st.sampled_from([1, MEBIBYTE, GIBIBYTE]))
def test_requests_are_rounded_up_to_whole_units(allocation: int, unit: int) -> None:
    request = request_bytes(allocation, unit)
    assert request % unit == 0
    assert allocation + OUTSIDE_BYTES <= request < allocation + OUTSIDE_BYTES + unit
    share = fraction(allocation, request)
    assert float(share) <= 1
    assert float(share) * request >= allocation


def test_none_writes_nothing() -> None:
    after, main = emitted(a_pod(), "none")
    assert main["resources"] == MAIN["resources"]
    assert emitted_of(after) is None
    assert vector(main)[-2:] == FLAGS


# Project-HAMi/HAMi: pkg/device/nvidia/device.go (GenerateResourceRequests: a plain integer up to 2^31 - 1, in MiB, for
# each of nvidia.com/gpu; defaultExclusiveCoreIfNeeded: all cores where no memory is asked for),
# pkg/scheduler/webhook.go (no privileged container, no node named), examples/nvidia/vllm_cross_vgpu.yaml (no CUDA IPC
# between vGPUs).
def test_hami() -> None:
    after, main = emitted(a_pod(), "hami")
    for kind in ("limits", "requests"):
        assert main["resources"][kind]["nvidia.com/gpumem"] == MIB
        assert main["resources"][kind]["nvidia.com/gpu"] == "1"
    # The process sees its slice as the device's total, whatever the card is.
    slice_bytes = int(MIB) * MEBIBYTE
    assert vector(main)[-2] == f"--gpu-memory-utilization={fraction(ALLOCATION, slice_bytes)}"
    assert emitted_of(after) == Emitted("hami", slice_bytes, emitted_of(after).edits)  # type: ignore[union-attr]


@pytest.mark.parametrize("changes", [{"one_gpu_size": False}, {}])
def test_hamis_fraction_needs_no_product(changes: Raw) -> None:
    before = a_pod()
    before["spec"].pop("nodeSelector", None)
    _, main = emitted(before, "hami", **changes)
    assert vector(main)[-2].startswith("--gpu-memory-utilization=0.95")


def test_hami_all_cores_go() -> None:
    resources = {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpucores": "100"}}
    _, main = emitted(a_pod(main={"resources": resources}), "hami")
    assert "nvidia.com/gpucores" not in main["resources"]["limits"]
    resources = {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpucores": "50"}}
    _, main = emitted(a_pod(main={"resources": resources}), "hami")
    assert main["resources"]["limits"]["nvidia.com/gpucores"] == "50"


TWO_GPUS = {"resources": {"limits": {"nvidia.com/gpu": "2"}}}


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (a_pod({"name": "p", "securityContext": {"privileged": True}}), "privileged"),
        (a_pod(spec={"nodeName": "n1"}), "names its node"),
        (a_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpumem": "9000"}}}), "gpumem"),
        (
            a_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"}}}),
            "share",
        ),
        (a_pod(main={"resources": {"limits": {"nvidia.com/mig-1g.10gb": "1"}}}), "MIG"),
        (a_pod(main={"resources": {"limits": {"amd.com/gpu": "1"}}}), "no nvidia.com/gpu"),
        (a_pod({"name": "other", "resources": {"limits": {"nvidia.com/gpu": "1"}}}), "other asks for GPUs too"),
        (a_pod(main=TWO_GPUS), "--disable-custom-all-reduce"),
        (a_pod(labels={"leaderworkerset.sigs.k8s.io/name": "g"}), "pods of a group"),
    ],
)
def test_hami_declines(before: Raw, why: str) -> None:
    declined(before, "hami", why)


def test_a_group_of_one_is_none() -> None:
    group = {"leaderworkerset.sigs.k8s.io/name": "g"}
    before = a_pod(labels=group, annotations={"leaderworkerset.sigs.k8s.io/size": "1"})
    _, main = emitted(before, "hami")
    assert main["resources"]["limits"]["nvidia.com/gpumem"] == MIB


def test_hami_on_two_gpus() -> None:
    main = {**TWO_GPUS, "args": ["--model=m", "--tensor-parallel-size=2", "--disable-custom-all-reduce"]}
    _, after = emitted(a_pod(main=main), "hami")
    assert after["resources"]["limits"] == {"nvidia.com/gpu": "2", "nvidia.com/gpumem": MIB}


@pytest.mark.parametrize("largest", [0, 21 * GIBIBYTE])
def test_no_more_is_asked_for_than_a_card_has(largest: int) -> None:
    declined(a_pod(), "hami", "more than any GPU seen has", largest_gpu_bytes=largest)


# kai-scheduler/KAI-Scheduler: pkg/binder/plugins/gpusharing/gpu-request/gpu_request_validator.go (gpu-memory: a whole
# number above zero, beside no nvidia.com/gpu of any container and no gpu-fraction; gpu-fraction-num-devices only beside
# one of the two), pkg/admission/webhook/v1alpha2/deviceaccess/device_access.go (NVIDIA_VISIBLE_DEVICES nowhere else),
# pkg/operator/operands/admission/resources.go (its webhook sees pods of its scheduler only), docs/gpu-sharing (queue).
def test_kai() -> None:
    after, main = emitted(a_pod(**KAI), "kai")
    assert after["metadata"]["annotations"]["gpu-memory"] == MIB
    assert "nvidia.com/gpu" not in {**main["resources"]["limits"], **main["resources"]["requests"]}
    assert main["resources"]["requests"] == {"cpu": "4"}
    assert "gpu-fraction-container-name" not in after["metadata"]["annotations"]
    # Nothing keeps to it, and the process sees the whole card.
    assert vector(main)[-2:] == FLAGS


def test_kai_names_the_container_that_is_not_the_first() -> None:
    before = a_pod(**KAI)
    before["spec"]["containers"].insert(0, {"name": "proxy", "image": "p"})
    known = knowing_size(before, "kai")
    annotations = patched(before, admit(review(before), known, SETTINGS))["metadata"]["annotations"]
    assert annotations["gpu-fraction-container-name"] == "main"


def test_kai_on_two_gpus() -> None:
    after, _ = emitted(a_pod(main=TWO_GPUS, **KAI), "kai")
    assert after["metadata"]["annotations"]["gpu-fraction-num-devices"] == "2"


def test_what_kai_adds_itself_changes_no_fingerprint() -> None:
    """It puts gpu-memory into further words, and notes the GPUs that it found."""
    before = a_pod(**KAI)
    after, _ = emitted(before, "kai")
    after["metadata"]["annotations"]["nvidia.com/container.main.gpu-memory.request"] = f"{MIB}Mi"
    after["metadata"]["annotations"]["nvidia.com/container.main.gpus.devices"] = "GPU-1"
    assert fingerprint(after, "main") == fingerprint(before, "main")


@pytest.mark.parametrize("emitter", ["kai", "kai-nvfractions"])
@pytest.mark.parametrize(
    ("before", "why"),
    [
        (a_pod(spec=KAI["spec"]), "no label kai.scheduler/queue"),
        (a_pod(labels=KAI["labels"]), "schedulerName is not kai-scheduler"),
        (a_pod(labels=KAI["labels"], spec={"schedulerName": "volcano"}), "schedulerName is not kai-scheduler"),
        (a_pod({"name": "o", "resources": {"limits": {"nvidia.com/gpu": "1"}}}, **KAI), "o asks for GPUs too"),
        (a_pod({"name": "o", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}, **KAI), "o sets NVIDIA"),
        (a_pod(annotations={"gpu-fraction": "0.5"}, **KAI), "gpu-fraction"),
        (a_pod(annotations={"gpu-memory": "4096"}, **KAI), "gpu-memory"),
        (
            a_pod(annotations={"nvidia.com/container.main.gpu-memory.request": "4Gi"}, **KAI),
            "share of a GPU already",
        ),
    ],
)
def test_kai_declines(before: Raw, why: str, emitter: str) -> None:
    declined(before, emitter, why)


def test_kai_leaves_other_containers_without_devices() -> None:
    emitted(a_pod({"name": "o", "env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]}, **KAI), "kai")


# kai-scheduler/KAI-Scheduler: docs/gpu-sharing/README.md and pkg/admission/webhook/v1alpha2/nvfractions/validation.go
# (one container of a pod, which is there; quantities above zero, request at most limit; .gpus.devices is KAI's own);
# kai-scheduler/gpu-fractioning: annotations (at least 1 MiB, rounded up to whole MiB).
def test_kai_nvfractions() -> None:
    after, main = emitted(a_pod(**KAI), "kai-nvfractions")
    annotations = after["metadata"]["annotations"]
    assert annotations["nvidia.com/container.main.gpu-memory.request"] == f"{MIB}Mi"
    assert annotations["nvidia.com/container.main.gpu-memory.limit"] == f"{MIB}Mi"
    assert "nvidia.com/gpu" not in main["resources"]["limits"]
    # What the process sees is not known: bytes, and the fraction in process.
    assert environment(main)[ENV_ALLOCATION_BYTES] == str(ALLOCATION)
    assert vector(main) == ["--model=m"]


def test_kai_nvfractions_declines_a_long_name() -> None:
    before = a_pod(**KAI)
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
    after, main = emitted(a_pod(), "volcano")
    words = {"volcano.sh/vgpu-number": "1", "volcano.sh/vgpu-memory": MIB}
    assert main["resources"] == {"limits": words, "requests": {"cpu": "4", **words}}
    assert after["spec"]["schedulerName"] == "volcano"
    assert vector(main)[-2] == f"--gpu-memory-utilization={fraction(ALLOCATION, int(MIB) * MEBIBYTE)}"


@pytest.mark.parametrize("scheduler", ["volcano", "default-scheduler"])
def test_volcano_schedules(scheduler: str) -> None:
    after, _ = emitted(a_pod(spec={"schedulerName": scheduler}), "volcano")
    assert after["spec"]["schedulerName"] == "volcano"


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (a_pod(spec={"schedulerName": "kai-scheduler"}), "scheduler is kai-scheduler"),
        (
            a_pod(main={"resources": {"limits": {"nvidia.com/gpu": "1", "volcano.sh/vgpu-number": "1"}}}),
            "vgpu-number",
        ),
    ],
)
def test_volcano_declines(before: Raw, why: str) -> None:
    declined(before, "volcano", why)


def _as_sidecar(before: Raw) -> Raw:
    engine = {**before["spec"]["containers"][0], "restartPolicy": "Always"}
    before["spec"] |= {"initContainers": [engine], "containers": [{"name": "app", "image": "a"}]}
    return before


@pytest.mark.parametrize("emitter", ["volcano", "gpushare"])
def test_sidecars_are_not_counted_by_all(emitter: str) -> None:
    before = _as_sidecar(a_pod())
    after = patched(before, admit(review(before), knowing_size(before, emitter), SETTINGS))
    assert "is a sidecar" in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert after["spec"]["initContainers"][0]["resources"] == MAIN["resources"]


def test_hami_counts_sidecars() -> None:
    before = _as_sidecar(a_pod())
    after = patched(before, admit(review(before), knowing_size(before, "hami"), SETTINGS))
    assert after["spec"]["initContainers"][0]["resources"]["limits"]["nvidia.com/gpumem"] == MIB


# AliyunContainerService/gpushare-scheduler-extender: pkg/utils/pod.go (limits of plain containers, added up),
# pkg/cache/nodeinfo.go (allocateGPUID: one device for the whole pod), docs/userguide.md (GiB).
def test_gpushare() -> None:
    _, main = emitted(a_pod(), "gpushare")
    gibibytes = str(-(-(ALLOCATION + OUTSIDE_BYTES) // GIBIBYTE))
    assert main["resources"]["limits"] == {"aliyun.com/gpu-mem": gibibytes}
    assert vector(main)[-2:] == FLAGS


@pytest.mark.parametrize(
    ("before", "why"),
    [
        (a_pod(main=TWO_GPUS), "uses 2 GPUs"),
        (a_pod(main={"resources": {"limits": {"aliyun.com/gpu-mem": "8"}}}), "aliyun.com/gpu-mem"),
    ],
)
def test_gpushare_declines(before: Raw, why: str) -> None:
    declined(before, "gpushare", why)


# kubernetes/api: resource/v1/types.go (ExactDeviceRequest.capacity, DeviceConstraint.distinctAttribute),
# core/v1/types.go (PodResourceClaim: a name of its own and one template; ResourceRequirements.claims names it).


@pytest.mark.parametrize("gpus", [1, 2])
def test_dra(gpus: int) -> None:
    before = a_pod(main={"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}})
    template = claim_template_name(NAME, int(MIB) * MEBIBYTE, gpus)
    after, main = emitted(before, "dra", claim_template=template)
    [claim] = after["spec"]["resourceClaims"]
    assert claim == {"name": "vllm-rightsizer-gpu", "resourceClaimTemplateName": template}
    assert main["resources"]["claims"] == [{"name": claim["name"]}]
    assert "nvidia.com/gpu" not in main["resources"]["limits"]
    assert environment(main)[ENV_ALLOCATION_BYTES] == str(ALLOCATION)


@pytest.mark.parametrize("template", [None, f"{NAME}-00000000"])
def test_dra_waits_for_its_template(template: str | None) -> None:
    why = "is not there yet; a recommender with --no-gpu-claims makes none (in the chart: recommender.gpuClaims)"
    declined(a_pod(), "dra", why, claim_template=template)


def test_dra_leaves_claims_of_the_authors_own() -> None:
    claims = [{"name": "nic", "resourceClaimTemplateName": "rdma"}]
    declined(a_pod(spec={"resourceClaims": claims}), "dra", "spec.resourceClaims")


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
