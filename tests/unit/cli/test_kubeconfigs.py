"""Which API server, context and namespace the options and the environment name: as kubectl takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_rightsizer.errors import UsageError
from vllm_rightsizer.kubeconfigs import Access, access, context_names


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No kubeconfig of this machine counts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)


def kubeconfig(name: str, current: str | None = None, **namespaces: str | None) -> Path:
    """A file with a context for each of `namespaces`."""
    contexts = [
        {"name": context, "context": {"cluster": "c", "user": "u"} | ({"namespace": found} if found else {})}
        for context, found in namespaces.items()
    ]
    file = Path(name)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"contexts": contexts} | ({"current-context": current} if current else {})))
    return file


def test_the_namespace_is_that_of_the_context() -> None:
    file = kubeconfig("one", "lab", lab="chat", prod=None)
    assert access(file, None) == Access(file, None, "chat")
    assert access(file, "lab") == Access(file, "lab", "chat")
    assert access(file, "prod") == Access(file, "prod", "default")


def test_without_a_file_the_own_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = kubeconfig(str(tmp_path / ".kube" / "config"), "lab", lab="own")
    assert access(None, None) == Access(own, None, "own")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig("named", "lab", lab="named")))
    assert access(None, None).namespace == "named"
    assert access(own, None).namespace == "own"


def test_of_several_files_the_first_one_that_says_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    kubeconfig("one", lab="first")
    kubeconfig("two", "prod", lab="second", prod="two")
    kubeconfig("three", "lab", lab="third")
    monkeypatch.setenv("KUBECONFIG", "one:gone:two:three")
    assert access(None, None) == Access(Path("one:two:three"), "prod", "two")
    assert access(None, "lab") == Access(Path("one:two:three"), "lab", "first")
    assert context_names(None) == ["lab", "prod"]


def test_a_context_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="context test is not in one: there are lab, prod"):
        access(kubeconfig("one", "lab", lab=None, prod=None), "test")
    with pytest.raises(UsageError, match="give its file with --kubeconfig"):
        access(None, "lab")


def test_in_a_pod_without_a_file() -> None:
    assert access(None, None) == Access(None, None, "default")


@pytest.mark.parametrize("text", ["", "- a", "a: [", "contexts: 3", "contexts: [1, {name: a}]", "\0", "\xff"])
def test_what_is_no_kubeconfig_is_left_to_whoever_connects(text: str) -> None:
    file = Path("broken")
    file.write_text(text, encoding="latin-1")
    assert access(file, "lab") == Access(file, "lab", "default")
