"""The plugin comes in, and nothing about it can keep a pod from starting."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook_cases import Raw, engine, environment, injected, knowing, patched, pod, review

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_map_name
from vllm_plugin.names import (
    ANNOTATION_AUTO,
    ANNOTATION_ORIGINAL_ARGS,
    ENV_DIR,
    ENV_PORT,
    LABEL_INJECTED,
)
from webhook.admission import admit
from webhook.injection import INIT_CONTAINER, PLUGIN_FOLDER, PLUGIN_VOLUME, RUN_FOLDER, RUN_VOLUME, WHEEL_PATH
from webhook.knowledge import Knowledge
from webhook.settings import InjectionSettings
from webhook.sizes import OVERRIDES

INIT = InjectionSettings("init-container", "registry/plugin:1")


def test_by_config_map() -> None:
    after = injected(pod(engine()))
    volumes = {volume["name"]: volume for volume in after["spec"]["volumes"]}
    assert volumes[PLUGIN_VOLUME]["configMap"] == {"name": plugin_map_name(), "optional": True}
    assert volumes[RUN_VOLUME]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}
    container = after["spec"]["containers"][0]
    assert container["volumeMounts"] == [
        {"name": PLUGIN_VOLUME, "mountPath": PLUGIN_FOLDER, "readOnly": True},
        {"name": RUN_VOLUME, "mountPath": RUN_FOLDER},
    ]
    assert environment(container) == {
        "PYTHONPATH": f"{PLUGIN_FOLDER}/{WHEEL_FILE}",
        "VLLM_RIGHTSIZER_DIR": RUN_FOLDER,
        "VLLM_RIGHTSIZER_PORT": "9415",
        "VLLM_RIGHTSIZER_POD_UID": "",
    }
    assert {
        "name": "VLLM_RIGHTSIZER_POD_UID",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}},
    } in container["env"]
    assert container["ports"] == [{"name": "rightsizer", "containerPort": 9415, "protocol": "TCP"}]
    assert after["metadata"]["labels"][LABEL_INJECTED] == "true"
    assert "initContainers" not in after["spec"]


def test_the_rest_of_the_pod_stays() -> None:
    before = pod(
        engine(env=[{"name": "A", "value": "1"}], ports=[{"containerPort": 8000}], xUnknown={"b": [1]}),
        annotations={"mine": "1"},
    )
    before["spec"] |= {"volumes": [{"name": "shm", "emptyDir": {}}], "xFuture": 1}
    after = injected(before)
    assert after["spec"]["xFuture"] == 1
    assert after["spec"]["volumes"][0] == {"name": "shm", "emptyDir": {}}
    container = after["spec"]["containers"][0]
    assert container["xUnknown"] == {"b": [1]}
    assert container["env"][0] == {"name": "A", "value": "1"}
    assert container["ports"][0] == {"containerPort": 8000}
    assert after["metadata"]["annotations"]["mine"] == "1"


@pytest.mark.parametrize(
    ("container", "path"),
    [
        (engine(env=[{"name": "PYTHONPATH", "value": "/a:/b"}]), f"/a:/b:{WHEEL_PATH}"),
        (engine(env=[{"name": "PYTHONPATH"}]), WHEEL_PATH),
        (
            engine(env=[{"name": "PYTHONPATH", "value": "/a"}, {"name": "PYTHONPATH", "value": "/b"}]),
            f"/b:{WHEEL_PATH}",
        ),
        (engine(envFrom=[{"configMapRef": {"name": "c"}}]), f"$(PYTHONPATH):{WHEEL_PATH}"),
    ],
)
def test_pythonpath_is_added_to(container: Raw, path: str) -> None:
    assert environment(injected(pod(container))["spec"]["containers"][0])["PYTHONPATH"] == path


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("lora", "lora,vllm_rightsizer"), ("", "vllm_rightsizer"), ("vllm_rightsizer", "vllm_rightsizer")],
)
def test_our_plugin_is_named_where_plugins_are_listed(theirs: str, ours: str) -> None:
    container = engine(env=[{"name": "VLLM_PLUGINS", "value": theirs}])
    assert environment(injected(pod(container))["spec"]["containers"][0])["VLLM_PLUGINS"] == ours


def test_by_image_volume() -> None:
    settings = InjectionSettings("image-volume", "registry/plugin:1")
    after = injected(pod(engine()), settings)
    volumes = {volume["name"]: volume for volume in after["spec"]["volumes"]}
    assert volumes[PLUGIN_VOLUME]["image"] == {"reference": "registry/plugin:1", "pullPolicy": "IfNotPresent"}
    assert environment(after["spec"]["containers"][0])["PYTHONPATH"] == f"{PLUGIN_FOLDER}/plugin/{WHEEL_FILE}"
    assert "initContainers" not in after["spec"]


@pytest.mark.parametrize("first", range(3))
@pytest.mark.parametrize("second", range(3))
def test_another_way_than_the_pass_before(first: int, second: int) -> None:
    """Two replicas with different settings, in the middle of a roll-out: the way that was begun is kept."""
    ways = [InjectionSettings(), INIT, InjectionSettings("image-volume", "registry/plugin:1")]
    once = injected(pod(engine()), ways[first])
    assert "patch" not in admit(review(once), Knowledge(), ways[second])["response"]


def test_a_guaranteed_pod_stays_one() -> None:
    amounts = {"cpu": "4", "memory": "8Gi"}
    before = pod(engine(resources={"requests": amounts, "limits": amounts}))
    settings = InjectionSettings("init-container", "registry/plugin:1", init_cpu="250m", init_memory="128Mi")
    spec = injected(before, settings)["spec"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    assert spec["initContainers"][0]["resources"]["limits"] == {"cpu": "250m", "memory": "128Mi"}


def test_ephemeral_containers_stay() -> None:
    before = pod(engine())
    before["spec"]["ephemeralContainers"] = [{"name": "debug", "image": "vllm/vllm-openai", "args": ["--model=m"]}]
    assert injected(before)["spec"]["ephemeralContainers"] == before["spec"]["ephemeralContainers"]


def test_two_engines_have_each_their_own() -> None:
    before = pod(engine())
    before["spec"]["containers"].append(engine(name="second"))
    first, second = injected(before)["spec"]["containers"]
    assert environment(first)["VLLM_RIGHTSIZER_PORT"] == "9415"
    assert environment(second)["VLLM_RIGHTSIZER_PORT"] == "9416"
    assert first["volumeMounts"][1]["name"] != second["volumeMounts"][1]["name"]


def test_a_native_sidecar_is_an_engine_and_order_is_kept() -> None:
    before = pod({"name": "app", "image": "app"})
    before["spec"]["initContainers"] = [
        {"name": "download", "image": "x", "command": ["vllm", "serve", "m"]},
        engine(restartPolicy="Always"),
    ]
    after = injected(before, INIT)
    assert [container["name"] for container in after["spec"]["initContainers"]] == [INIT_CONTAINER, "download", "main"]
    assert "env" not in after["spec"]["initContainers"][1]
    assert "PYTHONPATH" in environment(after["spec"]["initContainers"][2])
    assert after["spec"]["containers"] == before["spec"]["containers"]


@pytest.mark.parametrize(
    ("of_pod", "of_container", "ours"),
    [
        (None, None, 65532),
        (0, 0, 65532),
        (1000, None, None),
        # As OpenShift leaves it.
        (None, 1000740000, 1000740000),
        (1000, 2000, None),
    ],
)
def test_by_init_container(of_pod: int | None, of_container: int | None, ours: int | None) -> None:
    before = pod(engine())
    if of_pod is not None:
        before["spec"]["securityContext"] = {"runAsUser": of_pod}
    if of_container is not None:
        before["spec"]["containers"][0]["securityContext"] = {"runAsUser": of_container}
    after = injected(before, INIT)
    init = after["spec"]["initContainers"][0]
    assert init["image"] == "registry/plugin:1"
    assert init["resources"]["requests"] == init["resources"]["limits"]
    # What Pod Security `restricted` asks for.
    context = init["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context.get("runAsUser") == ours
    volumes = {volume["name"]: volume for volume in after["spec"]["volumes"]}
    assert volumes[PLUGIN_VOLUME]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize(
    "settings", [InjectionSettings(), INIT, InjectionSettings("image-volume", "registry/plugin:1")]
)
def test_no_volume_of_ours_keeps_a_node_from_being_removed(engines: int, settings: InjectionSettings) -> None:
    """The cluster autoscaler leaves nodes alone on which a pod has local storage: host paths, and folders on disk
    that its own annotation does not name. What the author has named stays as it is."""
    annotation = {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": "cache"}
    before = pod(engine(), annotations=dict(annotation))
    before["spec"]["containers"] += [engine(name=f"engine-{at}") for at in range(1, engines)]
    before["spec"]["volumes"] = [{"name": "cache", "emptyDir": {}}]
    after = injected(before, settings)
    folders = {volume["name"]: volume["emptyDir"] for volume in after["spec"]["volumes"] if "emptyDir" in volume}
    assert len(folders) > engines
    assert [name for name, folder in folders.items() if folder.get("medium") != "Memory"] == ["cache"]
    assert not any("hostPath" in volume for volume in after["spec"]["volumes"])
    assert annotation.items() <= after["metadata"]["annotations"].items()


def test_an_init_container_needs_an_image() -> None:
    with pytest.raises(ValueError, match="--injector-image"):
        InjectionSettings("init-container")
    with pytest.raises(ValueError, match="image-volume"):
        InjectionSettings("image-volume")


def _entry(name: str) -> st.SearchStrategy[Raw]:
    reference = {"configMapKeyRef": {"name": "c", "key": "k"}}
    return st.sampled_from(
        [
            {"name": name},
            {"name": name, "value": "1"},
            {"name": name, "value": ""},
            {"name": name, "valueFrom": reference},
        ]
    )


_OUR_VARIABLES = ("PYTHONPATH", "VLLM_PLUGINS", ENV_DIR, ENV_PORT, *OVERRIDES)


@given(
    env=st.lists(st.sampled_from(_OUR_VARIABLES).flatmap(_entry), max_size=8),
    command=st.sampled_from([["vllm", "serve", "m"], ["sh", "-c", "vllm serve m"]]),
    one_gpu_size=st.booleans(),
    settings=st.sampled_from([InjectionSettings(), INIT]),
)
def test_no_variable_has_both_a_value_and_a_reference(
    env: list[Raw], command: list[str], one_gpu_size: bool, settings: InjectionSettings
) -> None:
    """The API server refuses a pod with such an entry."""
    before = pod(engine(command=command, args=None, env=env), annotations={ANNOTATION_AUTO: "true"})
    answer = admit(review(before), knowing(before, one_gpu_size=one_gpu_size), settings)
    for entry in patched(before, answer)["spec"]["containers"][0]["env"]:
        assert not ("valueFrom" in entry and "value" in entry), entry


def test_resources_of_the_whole_pod_bound_the_init_container_too() -> None:
    """An amount above the pod's own would be refused."""
    before = pod(engine())
    before["spec"]["resources"] = {"limits": {"cpu": "50m", "memory": "32Mi"}}
    assert "resources" not in injected(before, INIT)["spec"]["initContainers"][0]


@pytest.mark.parametrize("engines", [1, 3])
@pytest.mark.parametrize("settings", [InjectionSettings(), INIT])
def test_names_stay_unique_and_valid(engines: int, settings: InjectionSettings) -> None:
    before = pod(engine())
    before["spec"]["containers"] += [engine(name=f"engine-{at}") for at in range(1, engines)]
    after = injected(before, settings)
    spec = after["spec"]
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    for named in (spec["volumes"], containers):
        names = [item["name"] for item in named]
        assert len(names) == len(set(names))
        assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)
    for container in containers:
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}
    assert all(len(value) <= 63 for value in after["metadata"]["labels"].values())


@pytest.mark.parametrize("theirs", [150, 191, 255])
def test_annotations_stay_below_kubernetes_limit(theirs: int) -> None:
    """256 KiB in all, names and values taken together, in bytes."""
    before = pod(
        engine(args=["--model=m", "ä" * 40_000]),
        annotations={ANNOTATION_AUTO: "true", "mine": "x" * theirs * 1024, ANNOTATION_ORIGINAL_ARGS: "old"},
    )
    after = patched(before, admit(review(before), knowing(before), InjectionSettings()))
    annotations = after["metadata"]["annotations"]
    assert sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) <= 256 * 1024
    # What does not fit is not left as it was for another pod.
    assert annotations.get(ANNOTATION_ORIGINAL_ARGS) != "old"
