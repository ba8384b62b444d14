"""`vllm-rightsizer recommender`: how it finds the API server, and what is said where it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from vllm_rightsizer.demo.ports import free_ports

Cli = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 1, "run in a pod with a service account, or give a --kubeconfig"),
        (["--kubeconfig", "gone"], 1, "gone cannot be used"),
        (["--context", "lab"], 2, "give its file with --kubeconfig"),
    ],
)
def test_no_way_to_the_api_server(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    [port] = free_ports(1)
    done = cli("recommender", "--history", "history.db", "--port", str(port), *options)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
