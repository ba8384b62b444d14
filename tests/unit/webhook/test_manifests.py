"""A manifest is rewritten as its pods would be, whatever kind holds them."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
from ruamel.yaml import YAML
from webhook_cases import FLAGS, IMAGE, KV_BYTES, UTILIZATION, environment, vector

from vllm_plugin.names import ANNOTATION_EXCLUDE
from webhook.manifests import rewrite_object

Raw = dict[str, Any]
SPEC: Raw = {"containers": [{"name": "main", "image": IMAGE, "args": ["--model=m"]}]}
TEMPLATE: Raw = {"metadata": {"labels": {"app": "x"}}, "spec": SPEC}


def _rewritten(obj: Raw) -> Any:
    before = copy.deepcopy(obj)
    result = rewrite_object(obj, KV_BYTES, UTILIZATION)
    assert obj == before
    return result


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ({"kind": "Pod", "spec": SPEC}, ()),
        ({"kind": "Deployment", "spec": {"template": TEMPLATE}}, ("spec", "template")),
        ({"kind": "StatefulSet", "spec": {"template": TEMPLATE}}, ("spec", "template")),
        ({"kind": "DaemonSet", "spec": {"template": TEMPLATE}}, ("spec", "template")),
        ({"kind": "ReplicaSet", "spec": {"template": TEMPLATE}}, ("spec", "template")),
        ({"kind": "Job", "spec": {"template": {"spec": SPEC}}}, ("spec", "template")),
        (
            {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}},
            ("spec", "jobTemplate", "spec", "template"),
        ),
        ({"kind": "Rollout", "spec": {"template": TEMPLATE}}, ("spec", "template")),
        (
            {"kind": "LeaderWorkerSet", "spec": {"leaderWorkerTemplate": {"workerTemplate": TEMPLATE}}},
            ("spec", "leaderWorkerTemplate", "workerTemplate"),
        ),
        ({"kind": "List", "items": [{"kind": "Pod", "spec": SPEC}]}, ("items", 0)),
        ({"kind": "ServingRuntime", "spec": SPEC}, ()),
        (
            {"kind": "RayCluster", "spec": {"headGroupSpec": {"template": TEMPLATE}}},
            ("spec", "headGroupSpec", "template"),
        ),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_kinds(obj: Raw, path: tuple[str | int, ...]) -> None:
    result = _rewritten(obj)
    template = result.obj
    for part in path:
        template = template[part]
    container = template["spec"]["containers"][0]
    assert vector(container) == ["--model=m", *FLAGS]
    assert "PYTHONPATH" in environment(container)
    assert result.skipped == []
    assert len(result.changes) == 2
    if obj["kind"] == "ServingRuntime":
        # Its own metadata is not that of the pods.
        assert "metadata" not in result.obj
    else:
        assert template["metadata"]["labels"]["vllm-rightsizer.io/injected"] == "true"
    assert rewrite_object(result.obj, KV_BYTES, UTILIZATION).obj == result.obj


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        ({"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {}}, "ConfigMap c: it holds no pod"),
        (
            {"kind": "Pod", "spec": {"containers": [{"name": "a", "image": "nginx"}]}},
            "no container of the pod starts vLLM",
        ),
        ({"kind": "Pod", "metadata": {"annotations": {ANNOTATION_EXCLUDE: "true"}}, "spec": SPEC}, "excluded"),
        (
            {
                "kind": "Pod",
                "spec": {"containers": [{**SPEC["containers"][0], "env": [{"name": "PYTHONPATH", "valueFrom": {}}]}]},
            },
            "PYTHONPATH",
        ),
        (
            {
                "kind": "Deployment",
                "metadata": {"annotations": {ANNOTATION_EXCLUDE: "true"}},
                "spec": {"template": TEMPLATE},
            },
            "excluded",
        ),
    ],
)
def test_left_alone(obj: Raw, why: str) -> None:
    result = _rewritten(obj)
    assert result.obj == obj
    assert result.changes == []
    assert why in result.skipped[0]


def test_bytes_alone() -> None:
    result = rewrite_object({"kind": "Pod", "spec": SPEC}, KV_BYTES, None)
    assert vector(result.obj["spec"]["containers"][0]) == ["--model=m", FLAGS[1]]


def test_comments_survive() -> None:
    text = """\
# the service
kind: Deployment
spec:
  template:
    metadata:
      labels: {app: x} # kept
    spec:
      containers:
        - name: main # ours
          image: vllm/vllm-openai
          args:
            - --model=m # the model
            - --port=8000
"""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    result = rewrite_object(yaml.load(text), KV_BYTES, UTILIZATION)
    written = io.StringIO()
    yaml.dump(result.obj, written)
    lines = written.getvalue().splitlines()
    # The one line that changes gains our label, and keeps its comment.
    assert [line for line in text.splitlines() if line not in lines] == ["      labels: {app: x} # kept"]
    assert "      labels: {app: x, vllm-rightsizer.io/injected: 'true'} # kept" in lines
    after = lines.index("            - --port=8000") + 1
    assert lines[after : after + 2] == [f"            - {flag}" for flag in FLAGS]
