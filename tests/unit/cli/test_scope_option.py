"""`plan --scope`: where silence of a namespace is consent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from vllm_plugin.names import LABEL_INJECT

Cli = Callable[..., CompletedProcess[str]]
CLUSTER = Path(__file__).parents[3] / "deploy" / "examples" / "cluster"


@pytest.mark.parametrize(
    ("said", "scope", "planned"),
    [("", "OptIn", False), ("", "OptOut", True), ("enabled", "OptIn", True), ("disabled", "OptOut", False)],
)
def test_whose_pods_are_planned(cli: Cli, tmp_path: Path, said: str, scope: str, planned: bool) -> None:
    objects = tmp_path / "objects"
    shutil.copytree(CLUSTER, objects)
    file = objects / "namespace" / "_cluster" / "chat.json"
    namespace = json.loads(file.read_text())
    namespace["metadata"]["labels"] = {LABEL_INJECT: said} if said else {}
    file.write_text(json.dumps(namespace))
    done = cli("plan", "--objects", str(objects), "--scope", scope)
    assert done.returncode == 0, done.stderr
    assert ("chat/llama-3-8b-0/vllm" in done.stdout) is planned
