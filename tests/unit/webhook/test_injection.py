"""The plugin comes in, and nothing about it can keep a pod from starting."""

from __future__ import annotations

from typing import Any

import pytest
from webhook_cases import Raw, environment, patched, pod, review

from recommender.api.plugin_wheel import WHEEL_FILE, plugin_map_name
from vllm_plugin.names import ANNOTATION_SKIPPED, LABEL_INJECTED
from webhook.admission import admit
from webhook.injection import INIT_CONTAINER, PLUGIN_FOLDER, PLUGIN_VOLUME, RUN_FOLDER, RUN_VOLUME, WHEEL_PATH
from webhook.knowledge import Knowledge
from webhook.settings import InjectionSettings

INIT = InjectionSettings("init-container", "registry/plugin:1")


def _main(**more: Any) -> Raw:
    return {"name": "main", "image": "vllm/vllm-openai", "args": ["--model=m"], **more}


def _injected(before: Raw, settings: InjectionSettings = InjectionSettings()) -> Raw:  # noqa: B008
    after = patched(before, admit(review(before), Knowledge(), settings))
    again = admit(review(after), Knowledge(), settings)
    assert "patch" not in again["response"]
    return after


def test_by_config_map() -> None:
    after = _injected(pod(_main()))
    volumes = {volume["name"]: volume for volume in after["spec"]["volumes"]}
    assert volumes[PLUGIN_VOLUME]["configMap"] == {"name": plugin_map_name(), "optional": True}
    assert volumes[RUN_VOLUME]["emptyDir"] == {"sizeLimit": "16Mi"}
    container = after["spec"]["containers"][0]
    assert container["volumeMounts"] == [
        {"name": PLUGIN_VOLUME, "mountPath": PLUGIN_FOLDER, "readOnly": True},
        {"name": RUN_VOLUME, "mountPath": RUN_FOLDER},
    ]
    assert environment(container) == {
        "PYTHONPATH": f"{PLUGIN_FOLDER}/{WHEEL_FILE}",
        "VLLM_RIGHTSIZER_DIR": RUN_FOLDER,
        "VLLM_RIGHTSIZER_PORT": "9415",
    }
    assert container["ports"] == [{"name": "rightsizer", "containerPort": 9415, "protocol": "TCP"}]
    assert after["metadata"]["labels"][LABEL_INJECTED] == "true"
    assert "initContainers" not in after["spec"]


def test_the_rest_of_the_pod_stays() -> None:
    before = pod(
        _main(env=[{"name": "A", "value": "1"}], ports=[{"containerPort": 8000}], xUnknown={"b": [1]}),
        annotations={"mine": "1"},
    )
    before["spec"] |= {"volumes": [{"name": "shm", "emptyDir": {}}], "xFuture": 1}
    after = _injected(before)
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
        (_main(env=[{"name": "PYTHONPATH", "value": "/a:/b"}]), f"/a:/b:{WHEEL_PATH}"),
        (_main(env=[{"name": "PYTHONPATH"}]), WHEEL_PATH),
        (_main(env=[{"name": "PYTHONPATH", "value": "/a"}, {"name": "PYTHONPATH", "value": "/b"}]), f"/b:{WHEEL_PATH}"),
        (_main(envFrom=[{"configMapRef": {"name": "c"}}]), f"$(PYTHONPATH):{WHEEL_PATH}"),
    ],
)
def test_pythonpath_is_added_to(container: Raw, path: str) -> None:
    assert environment(_injected(pod(container))["spec"]["containers"][0])["PYTHONPATH"] == path


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("lora", "lora,vllm_rightsizer"), ("", "vllm_rightsizer"), ("vllm_rightsizer", "vllm_rightsizer")],
)
def test_our_plugin_is_named_where_plugins_are_listed(theirs: str, ours: str) -> None:
    container = _main(env=[{"name": "VLLM_PLUGINS", "value": theirs}])
    assert environment(_injected(pod(container))["spec"]["containers"][0])["VLLM_PLUGINS"] == ours


@pytest.mark.parametrize(
    ("container", "why"),
    [
        (_main(env=[{"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {}}}]), "takes PYTHONPATH from elsewhere"),
        (_main(env=[{"name": "VLLM_PLUGINS", "valueFrom": {"secretKeyRef": {}}}]), "takes VLLM_PLUGINS from elsewhere"),
        (_main(env=[{"name": "VLLM_RIGHTSIZER_DISABLED", "value": "1"}]), "switches it off"),
        (_main(command=["python", "-I", "-m", "vllm.entrypoints.openai.api_server"]), "-I or -E"),
        (_main(volumeMounts=[{"name": "x", "mountPath": PLUGIN_FOLDER + "/"}]), "a mount of its own"),
    ],
)
def test_refused_with_a_reason(container: Raw, why: str) -> None:
    before = pod(container)
    answer = admit(review(before), Knowledge(), InjectionSettings())
    after = patched(before, answer)
    assert answer["response"]["allowed"] is True
    assert why in answer["response"]["warnings"][0]
    assert why in after["metadata"]["annotations"][ANNOTATION_SKIPPED]
    assert after["spec"] == before["spec"]


@pytest.mark.parametrize("volume", [{"name": PLUGIN_VOLUME, "hostPath": {}}, {"name": RUN_VOLUME, "configMap": {}}])
def test_refused_where_a_volume_has_our_name(volume: Raw) -> None:
    before = pod(_main())
    before["spec"]["volumes"] = [volume]
    answer = admit(review(before), Knowledge(), InjectionSettings())
    assert answer["response"]["auditAnnotations"]["outcome"] == "refused"
    assert patched(before, answer)["spec"] == before["spec"]


def test_another_port_where_ours_is_taken() -> None:
    before = pod(_main(ports=[{"containerPort": 9415}]))
    before["spec"]["containers"].append({"name": "side", "image": "x", "ports": [{"containerPort": 9416}]})
    container = _injected(before)["spec"]["containers"][0]
    assert environment(container)["VLLM_RIGHTSIZER_PORT"] == "9417"
    assert container["ports"][-1]["containerPort"] == 9417


def test_the_authors_port_is_kept() -> None:
    container = _injected(pod(_main(env=[{"name": "VLLM_RIGHTSIZER_PORT", "value": "7000"}])))["spec"]["containers"][0]
    assert environment(container)["VLLM_RIGHTSIZER_PORT"] == "7000"
    assert container["ports"] == [{"name": "rightsizer", "containerPort": 7000, "protocol": "TCP"}]


def test_no_port_is_declared_on_the_hosts_network() -> None:
    before = pod(_main())
    before["spec"]["hostNetwork"] = True
    assert "ports" not in _injected(before)["spec"]["containers"][0]


def test_two_engines_have_each_their_own() -> None:
    before = pod(_main())
    before["spec"]["containers"].append(_main(name="second"))
    first, second = _injected(before)["spec"]["containers"]
    assert environment(first)["VLLM_RIGHTSIZER_PORT"] == "9415"
    assert environment(second)["VLLM_RIGHTSIZER_PORT"] == "9416"
    assert first["volumeMounts"][1]["name"] != second["volumeMounts"][1]["name"]


def test_a_native_sidecar_is_an_engine_and_order_is_kept() -> None:
    before = pod({"name": "app", "image": "app"})
    before["spec"]["initContainers"] = [
        {"name": "download", "image": "x", "command": ["vllm", "serve", "m"]},
        _main(restartPolicy="Always"),
    ]
    after = _injected(before, INIT)
    assert [container["name"] for container in after["spec"]["initContainers"]] == [INIT_CONTAINER, "download", "main"]
    assert "env" not in after["spec"]["initContainers"][1]
    assert "PYTHONPATH" in environment(after["spec"]["initContainers"][2])
    assert after["spec"]["containers"] == before["spec"]["containers"]


@pytest.mark.parametrize(("user", "ours"), [(None, 65532), (0, 65532), (1000, None)])
def test_by_init_container(user: int | None, ours: int | None) -> None:
    before = pod(_main())
    if user is not None:
        before["spec"]["securityContext"] = {"runAsUser": user}
    after = _injected(before, INIT)
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
    assert volumes[PLUGIN_VOLUME]["emptyDir"] == {"sizeLimit": "16Mi"}


def test_an_init_container_needs_an_image() -> None:
    with pytest.raises(ValueError, match="--injector-image"):
        InjectionSettings("init-container")
