"""A folder of manifests is judged file by file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.manifests import judge, main

Raw = dict[str, Any]

POD = """\
kind: Pod
metadata: {{name: a}}
spec:
  containers:
  - name: vllm
    image: {image}
    {launch}
  - {{name: web, image: nginx}}
"""
VISIBLE = "command: [vllm, serve, org/model]"
SHELL = "command: [sh, -c, 'vllm serve m --port 1']"
SCRIPT = "command: [/vllm/start.sh]"


@pytest.mark.parametrize(
    ("launch", "image", "expected", "got", "ok"),
    [
        (VISIBLE, "vllm/vllm-openai", "args", "args", True),
        (VISIBLE, "vllm/vllm-openai", "none", "args", False),
        (VISIBLE, "vllm/vllm-openai", "env", "args", False),
        (SHELL, "vllm/vllm-openai", "shell", "shell", True),
        (SHELL, "vllm/vllm-openai", "env", "shell", True),
        (SHELL, "vllm/vllm-openai", "args", "shell", False),
        (SCRIPT, "vllm/vllm-openai", "env", "env", True),
        (SCRIPT, "vllm/vllm-openai", "shell", "env", True),
        ("command: [sleep, '1']", "vllm/vllm-openai", "none", "none", True),
        ("command: [sleep, '1']", "vllm/vllm-openai", "args", "none", False),
        (VISIBLE, "vllm/vllm-openai-cpu:latest", "none", "none", True),
        ("command: [}", "x", "args", "none", False),
    ],
)
def test_file(tmp_path: Path, launch: str, image: str, expected: str, got: str, ok: bool) -> None:
    (tmp_path / "a.yaml").write_text(POD.format(image=image, launch=launch))
    line = judge(tmp_path, {"file": "a.yaml", "expected": expected, "vllm_container": "vllm"}, None)
    assert (line["got"], line["ok"]) == (got, ok)
    assert line["reason"]


def test_values_of_the_override(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(POD.format(image="vllm/vllm-openai:v0.8.5", launch=SHELL))
    line = judge(tmp_path, {"file": "a.yaml", "expected": "shell", "vllm_container": "vllm"}, None)
    # That release has no option for bytes.
    assert line["values"] == {"gpu_memory_utilization": 0.4321, "kv_cache_memory_bytes": None}


def test_no_file(tmp_path: Path) -> None:
    line = judge(tmp_path, {"file": "a.yaml", "expected": "args"}, None)
    assert not line["ok"]
    assert "cannot be read" in line["reason"]


@pytest.mark.engine
def test_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(POD.format(image="vllm/vllm-openai", launch=VISIBLE))
    index = [{"file": "a.yaml", "expected": "args", "vllm_container": "vllm"}]
    (tmp_path / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr(sys, "argv", ["manifests", str(tmp_path), "--json"])
    assert main() == 0
    line, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["values"] == {"gpu_memory_utilization": 0.4321, "kv_cache_memory_bytes": 4294967296}
    assert (summary["value"], summary["n"], summary["ok"]) == (1, 1, True)
