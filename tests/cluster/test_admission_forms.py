"""Every launch form of the unit tests, as the API server takes it: what we write is valid, and stays as it is."""

from __future__ import annotations

from itertools import count

import pytest
from webhook_cases import UNTOUCHED, Form
from webhook_wild_forms import ALL_FORMS

from bench.lab.webhook import Webhook
from recommender.api.fingerprints import container_of
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ENV_KV_BYTES

from .pods import (
    AUTOMATED,
    FLAGS,
    KV_BYTES,
    OPTED_IN,
    Raw,
    injected,
    owned,
    store_recommendation,
    tried,
    vllm_pod,
    without_server_fields,
)

_numbers = count(1)


@pytest.fixture(scope="module")
def namespace(webhook: Webhook) -> str:
    return webhook.plane.namespace("forms", OPTED_IN)


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: form.name)
def test_admitted(webhook: Webhook, namespace: str, form: Form) -> None:
    plane = webhook.plane
    pod = vllm_pod(annotations=AUTOMATED)
    pod["spec"]["containers"] = [form.container()]
    workload = WorkloadRef("apps", "Deployment", f"form-{next(_numbers)}")
    pod = owned(pod, workload)
    if form.becomes == UNTOUCHED:
        assert not injected(tried(plane, namespace, pod))
        return
    store_recommendation(plane, namespace, workload, pod, "main")
    plane.wait_for(lambda: _sized(tried(plane, namespace, pod), in_flags=isinstance(form.becomes, list)), form.name)
    once = tried(plane, namespace, pod)
    kept = {key: once["metadata"][key] for key in ("name", "labels", "annotations", "ownerReferences")}
    twice = tried(plane, namespace, without_server_fields(once) | {"metadata": kept})
    assert without_server_fields(twice) == without_server_fields(once)


def _sized(pod: Raw, *, in_flags: bool) -> bool:
    container = container_of(pod, "main")
    assert container is not None
    if in_flags:
        vector = [*container.get("command", ()), *container.get("args", ())]
        return all(vector.count(flag) == 1 for flag in FLAGS)
    return {"name": ENV_KV_BYTES, "value": str(KV_BYTES)} in container.get("env", ())
