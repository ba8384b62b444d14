"""Whatever comes is allowed, and what is said about it is no longer than it may be."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webhook_cases import (
    FLAGS,
    MAIN,
    knowing,
    patched,
    pod,
    review,
)

from vllm_plugin.names import (
    ANNOTATION_APPLIED,
    ANNOTATION_CONTAINER,
    ANNOTATION_ORIGINAL_ARGS,
)
from webhook.admission import admit
from webhook.knowledge import Knowledge
from webhook.offline import admit_json
from webhook.reviews import NoReviewError
from webhook.settings import InjectionSettings

SETTINGS = InjectionSettings()


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


@settings(max_examples=60)
@given(_json)
def test_any_json_is_allowed(value: Any) -> None:
    for asked in (value, {"kind": "AdmissionReview", "request": value}, review(value), review({"spec": value})):
        response = admit(asked, Knowledge(), SETTINGS)["response"]
        assert response["allowed"] is True
        assert "patch" not in response


@settings(max_examples=120)
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
