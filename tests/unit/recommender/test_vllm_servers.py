"""Which containers look like vLLM servers."""

from __future__ import annotations

import pytest

from recommender.vllm_servers import vllm_containers


@pytest.mark.parametrize(
    ("container", "serves"),
    [
        ({"image": "vllm/vllm-openai:v0.32.0"}, True),
        ({"image": "registry.example/ai/my-vllm@sha256:0a"}, True),
        ({"image": "python:3.12", "command": ["sh", "-c", "exec vllm serve m"]}, True),
        ({"image": "nginx"}, False),
        # With the scope OptOut our own pods are looked at, too.
        ({"image": "vllm-rightsizer/vllm-rightsizer:0.1.0", "args": ["webhook"]}, False),
        ({"image": "vllm-rightsizer:0.1.0", "args": ["recommender"]}, False),
    ],
)
def test_what_serves(container: dict[str, object], serves: bool) -> None:
    pod = {"spec": {"containers": [{"name": "main", **container}]}}
    assert bool(vllm_containers(pod)) is serves
