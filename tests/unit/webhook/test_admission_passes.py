"""A pod that comes again: the second pass changes nothing, whoever came between."""

from __future__ import annotations

import json

import pytest
from webhook_cases import (
    FLAGS,
    MAIN,
    Form,
    Raw,
    environment,
    knowing,
    patched,
    pod,
    review,
    vector,
)
from webhook_wild_forms import ALL_FORMS

from vllm_plugin.names import (
    ANNOTATION_ORIGINAL_ARGS,
)
from webhook.admission import admit
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()


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


@pytest.mark.parametrize("form", ALL_FORMS[:3], ids=lambda form: form.name)
def test_with_the_plugin_nowhere_nothing_is_changed(form: Form) -> None:
    before = pod(form.container())
    knowledge = knowing(before)
    assert "patch" in admit(review(before), knowledge, SETTINGS)["response"]
    response = admit(review(before), knowledge, InjectionSettings("none"))["response"]
    assert (response["allowed"], "patch" in response, response.get("warnings")) == (True, False, None)
    assert response["auditAnnotations"]["outcome"] == "off"
