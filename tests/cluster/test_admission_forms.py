"""Every launch form of the unit tests, as the API server takes it: what we write is valid, and stays as it is."""

from __future__ import annotations

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

WORKLOADS = {form.name: WorkloadRef("apps", "Deployment", f"form-{at}") for at, form in enumerate(ALL_FORMS)}


@pytest.fixture(scope="module")
def namespace(webhook: Webhook) -> str:
    """With a recommendation for each form: when its turn comes, the webhook has heard of it."""
    made = webhook.plane.namespace("forms", OPTED_IN)
    for form in ALL_FORMS:
        if form.becomes != UNTOUCHED:
            store_recommendation(webhook.plane, made, WORKLOADS[form.name], _pod(form), "main")
    return made


def _pod(form: Form) -> Raw:
    pod = vllm_pod(annotations=AUTOMATED)
    pod["spec"]["containers"] = [form.container()]
    return owned(pod, WORKLOADS[form.name])


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: form.name)
def test_admitted(webhook: Webhook, namespace: str, form: Form) -> None:
    plane, pod = webhook.plane, _pod(form)
    if form.becomes == UNTOUCHED:
        assert not injected(tried(plane, namespace, pod))
        return
    once: Raw = {}

    def sized() -> bool:
        once.update(tried(plane, namespace, pod))
        return _sized(once, in_flags=isinstance(form.becomes, list))

    plane.wait_for(sized, form.name)
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
