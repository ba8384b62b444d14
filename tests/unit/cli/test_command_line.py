"""The programs behind the commands: help, version, and what is said when they cannot start."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run

import pytest

from vllm_plugin.names import VERSION
from vllm_rightsizer.demo.ports import free_ports

Cli = Callable[..., CompletedProcess[str]]


def test_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"vllm-rightsizer {VERSION}\n"


def test_help_names_every_command(program: Cli) -> None:
    text = program("--help").stdout
    for command in ("webhook", "recommender", "demo", "admit", "rewrite", "explain"):
        assert command in text


def test_help_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, vllm_rightsizer.cli; "
        "print(sorted({'fastapi', 'uvicorn', 'matplotlib', 'torch', 'vllm', 'rich.table'} & sys.modules.keys()))"
    )
    assert run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("command", "options"), [("webhook", ["--tls-dir", "tls"]), ("recommender", ["--history", "history.db"])]
)
def test_a_port_that_is_in_use(
    program: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = program(command, "--objects", str(tmp_path), "--port", port, *options)
    assert done.returncode == 1
    assert done.stderr.startswith("vllm-rightsizer: ")
    assert port in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("command", "options"), [("webhook", ["--tls-dir", "tls"]), ("recommender", ["--history", "history.db"])]
)
def test_a_folder_of_objects_that_is_not_there(cli: Cli, tmp_path: Path, command: str, options: list[str]) -> None:
    done = cli(command, "--objects", str(tmp_path / "gone"), *options)
    assert done.returncode == 2
    missing = f"--objects {tmp_path}/gone is no folder"
    assert done.stderr == f"vllm-rightsizer: {missing}; create it, or give the one in which the objects lie\n"


def test_a_webhook_with_neither_cluster_nor_folder(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    [port] = free_ports(1)
    done = cli("webhook", "--port", str(port))
    assert done.returncode == 1
    assert done.stderr.startswith("vllm-rightsizer: no API server is known")
    assert done.stderr.endswith("give a --kubeconfig\n")
    done = cli("webhook", "--port", port, "--kubeconfig", str(tmp_path / "gone"))
    assert done.returncode == 1
    assert f"{tmp_path}/gone cannot be used" in done.stderr
    done = cli("webhook", "--objects", str(tmp_path))
    assert done.returncode == 2
    assert "give a folder with --tls-dir" in done.stderr


def test_injection_by_init_container_needs_an_image(cli: Cli, tmp_path: Path) -> None:
    done = cli("webhook", "--objects", str(tmp_path), "--tls-dir", str(tmp_path), "--injection", "init-container")
    assert done.returncode == 2
    assert done.stderr.startswith("vllm-rightsizer: injection by init-container needs an image")


def test_an_output_folder_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("demo", "--output", str(tmp_path / "file"))
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert len(done.stderr.splitlines()) == 1
