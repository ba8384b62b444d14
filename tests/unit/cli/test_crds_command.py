"""`vllm-rightsizer crds --apply`: what is said where there is no API server, or one that refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Cli = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 1, "run in a pod with a service account, or give a --kubeconfig"),
        (["--kubeconfig", "gone"], 1, "gone cannot be used"),
        (["--context", "lab"], 2, "give its file with --kubeconfig"),
        (["--folder", "there"], 2, "--folder writes files, and --apply to the API server"),
    ],
)
def test_no_way_to_the_api_server(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    done = cli("crds", "--apply", *options)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
