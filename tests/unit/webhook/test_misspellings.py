"""What was meant to be a sizing option and is none is told, and left as it is."""

from __future__ import annotations

import pytest
from webhook_cases import FLAGS, knowing, patched, pod, review, vector

from webhook.admission import admit
from webhook.manifests import rewrite_object
from webhook.misspellings import misspelt
from webhook.settings import InjectionSettings


@pytest.mark.parametrize(
    ("token", "meant"),
    [
        ("--gpu-memory-utilisation", "--gpu-memory-utilization"),
        ("--gpu-memory-utilisation=0.9", "--gpu-memory-utilization"),
        ("--gpu_memory_utilisation=$(X)", "--gpu-memory-utilization"),
        ("--gpu-mem-utilization", "--gpu-memory-utilization"),
        ("--gpu-memory-utlization=0.9", "--gpu-memory-utilization"),
        ("--kv-cache-memory-byte", None),
        ("--kv-cache-memory-byts=1", "--kv-cache-memory-bytes"),
        ("--num-gpu-block-override=1", "--num-gpu-blocks-override"),
        ("-gpu-memory-utilization", "--gpu-memory-utilization"),
        ("\u2013gpu-memory-utilization=0.9", "--gpu-memory-utilization"),
        ("--gpu-memory-utilization 0.9", "--gpu-memory-utilization=…"),
        ("vllm serve m --gpu-memory-utilisation 0.9", "--gpu-memory-utilization"),
        ("--gpu-memory-utilization=0.9", None),
        ("--gpu-memory-util", None),
        ("--gpu", None),
        ("--kv-cache-memory=1", None),
        ("--kv-cache-dtype", None),
        ("--max-model-len", None),
        ("-tp", None),
        ("-", None),
        ("--", None),
        ("org/gpu-memory-utilisation", None),
        ('{"a": "--x"}', None),
    ],
)
def test_token(token: str, meant: str | None) -> None:
    found = misspelt([token])
    assert [sentence for sentence in found if meant is not None and meant in sentence] == found
    assert bool(found) == (meant is not None)


def test_a_pod_is_warned_about_and_not_repaired() -> None:
    args = ["--model=m", "--gpu-memory-utilisation=0.9"]
    before = pod({"name": "main", "image": "vllm/vllm-openai:v0.11.0", "args": args})
    answer = admit(review(before), knowing(before), InjectionSettings())
    assert "--gpu-memory-utilisation is no option of vLLM's" in answer["response"]["warnings"][0]
    assert vector(patched(before, answer)["spec"]["containers"][0]) == [*args, *FLAGS]


def test_no_value_is_told() -> None:
    """It may be a secret, and controllers log the warnings that they get."""
    [sentence] = misspelt(["--api-key s3cret"])
    assert "--api-key=…" in sentence
    assert "s3cret" not in sentence


def test_a_manifest_is_told_about() -> None:
    obj = {
        "kind": "Pod",
        "spec": {"containers": [{"name": "a", "command": ["vllm", "serve", "--gpu_memory_utilisation=1"]}]},
    }
    assert "container a: --gpu_memory_utilisation" in rewrite_object(obj, 1, "0.5").skipped[0]
