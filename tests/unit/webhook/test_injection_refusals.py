"""Pods into which the plugin cannot come without risk are left alone, with a reason."""

from __future__ import annotations

import pytest
from webhook_cases import Raw, engine, injected, patched, pod, review

from vllm_plugin.names import (
    ANNOTATION_SKIPPED,
)
from webhook.admission import admit
from webhook.injection import INIT_CONTAINER, PLUGIN_FOLDER, PLUGIN_VOLUME, RUN_FOLDER, RUN_VOLUME
from webhook.knowledge import Knowledge
from webhook.settings import InjectionSettings

INIT = InjectionSettings("init-container", "registry/plugin:1")


def _refused(before: Raw, why: str, settings: InjectionSettings = InjectionSettings()) -> None:  # noqa: B008
    answer = admit(review(before), Knowledge(), settings)
    assert answer["response"]["auditAnnotations"]["outcome"] == "refused"
    assert why in answer["response"]["auditAnnotations"]["reason"]
    assert patched(before, answer)["spec"] == before["spec"]


@pytest.mark.parametrize(
    ("container", "why"),
    [
        (
            engine(env=[{"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {}}}]),
            "takes PYTHONPATH from elsewhere",
        ),
        (
            engine(env=[{"name": "VLLM_PLUGINS", "valueFrom": {"secretKeyRef": {}}}]),
            "takes VLLM_PLUGINS from elsewhere",
        ),
        (engine(env=[{"name": "VLLM_RIGHTSIZER_DISABLED", "value": "1"}]), "switches it off"),
        (engine(command=["python", "-I", "-m", "vllm.entrypoints.openai.api_server"]), "-I or -E"),
        (engine(volumeMounts=[{"name": "x", "mountPath": PLUGIN_FOLDER + "/"}]), "a mount of its own"),
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
    before = pod(engine())
    before["spec"]["volumes"] = [volume]
    answer = admit(review(before), Knowledge(), InjectionSettings())
    assert answer["response"]["auditAnnotations"]["outcome"] == "refused"
    assert patched(before, answer)["spec"] == before["spec"]


def test_refused_where_a_folder_has_our_name_and_nobody_fills_it() -> None:
    before = pod(engine())
    before["spec"]["volumes"] = [{"name": PLUGIN_VOLUME, "emptyDir": {}}]
    _refused(before, "another volume")


@pytest.mark.parametrize("folder", [PLUGIN_FOLDER, RUN_FOLDER])
@pytest.mark.parametrize("form", ["{}/", "{}/.", "/var/run//vllm-rightsizer/x/../{}"])
def test_refused_where_a_folder_of_ours_is_taken(folder: str, form: str) -> None:
    path = form.format(folder if form.startswith("{") else folder.rpartition("/")[2])
    _refused(pod(engine(volumeMounts=[{"name": "x", "mountPath": path}])), "a mount of its own")
    _refused(pod(engine(volumeDevices=[{"name": "x", "devicePath": path}])), "a device of its own")


@pytest.mark.parametrize("path", ["/", "/var", "/var/run/", "/run", "/var/run/vllm-rightsizer", "/run/vllm-rightsizer"])
@pytest.mark.parametrize(
    ("volume", "read_only"),
    [
        ({"emptyDir": {}}, True),
        ({"configMap": {"name": "c"}}, False),
        ({"secret": {"secretName": "s"}}, False),
        ({"projected": {"sources": []}}, False),
        ({"downwardAPI": {"items": []}}, False),
        ({"image": {"reference": "i"}}, False),
        ({"persistentVolumeClaim": {"claimName": "p", "readOnly": True}}, False),
    ],
)
def test_refused_below_a_folder_that_nobody_can_write_to(path: str, volume: Raw, read_only: bool) -> None:
    """The container runtime could not make the folder to mount ours on, and the container would not start."""
    before = pod(engine(volumeMounts=[{"name": "x", "mountPath": path, "readOnly": read_only}]))
    before["spec"]["volumes"] = [{"name": "x", **volume}]
    _refused(before, "read-only")


def test_a_folder_that_can_be_written_to_may_hold_ours() -> None:
    before = pod(engine(volumeMounts=[{"name": "x", "mountPath": "/var/run"}, {"name": "c", "mountPath": "/etc"}]))
    before["spec"]["volumes"] = [{"name": "x", "emptyDir": {}}, {"name": "c", "configMap": {"name": "c"}}]
    assert len(injected(before)["spec"]["containers"][0]["volumeMounts"]) == 4


def test_refused_where_a_container_has_our_init_containers_name() -> None:
    before = pod(engine())
    before["spec"]["containers"].append({"name": INIT_CONTAINER, "image": "x"})
    _refused(before, "named vllm-rightsizer-plugin", INIT)
