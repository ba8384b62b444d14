"""What shells and kubectl offer for what is half typed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_rightsizer.cli import main
from vllm_rightsizer.kubectl_completion import main as complete

CLUSTER = Path(__file__).parents[3] / "deploy" / "examples" / "cluster"
IN_CHAT = ("--objects", str(CLUSTER), "-n", "chat")
OFFERED = [
    (("",), "list"),
    (("li",), "list"),
    (("list", "--so"), "--sort"),
    (("list", "--sort", ""), "saving"),
    (("list", "-o", "c"), "csv"),
    (("list", "--color", ""), "never"),
    (("list", "--objects", str(CLUSTER), "-n", ""), "chat"),
    (("explain", *IN_CHAT, ""), "llama-3-8b"),
    (("explain", *IN_CHAT, "mi"), "mistral-7b"),
    (("explain", *IN_CHAT, "sts/"), "sts/llama-3-70b"),
    (("what-if", *IN_CHAT, "statefulset/m"), "statefulset/mistral-7b"),
]


@pytest.mark.parametrize(("shell", "said"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete --com")])
@pytest.mark.parametrize("program", ["vllm-rightsizer", "kubectl-vllm_rightsizer"])
def test_scripts_of_shells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str, said: str, program: str
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setattr(sys, "argv", [program, "--show-completion", shell])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    script = capsys.readouterr().out
    assert said in script
    assert "kubectl" not in script


@pytest.fixture
def kubectl(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_VLLM_RIGHTSIZER_COMPLETE", "_TYPER_COMPLETE_FISH_ACTION", "_TYPER_COMPLETE_ARGS"):
        monkeypatch.setenv(name, "")


def offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What kubectl is told."""
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-vllm_rightsizer", *words])
    complete()
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == ":0"
    return [line.split("\t")[0] for line in lines]


@pytest.mark.usefixtures("kubectl")
@pytest.mark.parametrize(("words", "expected"), OFFERED)
def test_kubectl(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    found = offered(monkeypatch, capsys, *words)
    assert expected in found
    assert all(name.startswith(words[-1]) for name in found)


@pytest.mark.usefixtures("kubectl")
def test_what_cannot_be_known_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """And nothing is said of it."""
    config = tmp_path / "kubeconfig"
    config.write_text('{"contexts": [{"name": "lab", "context": {}}, {"name": "prod", "context": {}}]}')
    assert offered(monkeypatch, capsys, "list", "--kubeconfig", str(config), "--context", "l") == ["lab"]
    assert offered(monkeypatch, capsys, "explain", "--kubeconfig", str(config), "") == []
    assert offered(monkeypatch, capsys, "explain", "--objects", str(tmp_path / "gone"), "") == []
    assert offered(monkeypatch, capsys, "explain", *IN_CHAT, "pod/") == []


@pytest.mark.processes
def test_bash(tmp_path: Path) -> None:
    """The real one, which starts our program for each."""
    cases = (OFFERED[1], OFFERED[3], OFFERED[-1])
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    script = ['eval "$(vllm-rightsizer --show-completion bash)"']
    for words, _ in cases:
        typed = ("vllm-rightsizer", *words)
        script += [
            f"COMP_WORDS=({shlex.join(typed)}) COMP_CWORD={len(words)} COMPREPLY=()",
            "_vllm_rightsizer_completion vllm-rightsizer",
            'echo "${COMPREPLY[*]}"',
        ]
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-c", "\n".join(script)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    for (words, expected), line in zip(cases, done.stdout.splitlines(), strict=True):
        assert expected in line.split(), words
