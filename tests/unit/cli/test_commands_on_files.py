"""`rewrite`, `admit` and `explain` on files, as a user types them."""

from __future__ import annotations

import base64
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import jsonpatch
import pytest
from ruamel.yaml import YAML

Cli = Callable[..., CompletedProcess[str]]
EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"

MANIFEST = """\
# The chat service.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: chat   # do not rename
spec:
  template:
    spec:
      containers:
      - name: vllm
        image: vllm/vllm-openai:v0.11.0
        args:
        - --model
        - "org/model"
        # what our users need
        - --max-model-len=8192   # tokens
        # where it listens
        ports:
        - containerPort: 8000

      # next to it
      - name: proxy
        image: envoy
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec:
  ports:
  - port: 80
"""
FLAGS = ["--gpu-memory-utilization=0.5000", "--kv-cache-memory-bytes=4294967296"]
NO_END = "has no end, or is nested too deeply: take out the alias that refers to what it stands in"


def rewrite(cli: Cli, file: Path | str, *more: str, stdin: str = "") -> CompletedProcess[str]:
    return cli("rewrite", "-f", str(file), "--kv-bytes", "4294967296", "--utilization", "0.5", *more, stdin=stdin)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "chat.yaml"
    path.write_text(MANIFEST)
    return path


def test_the_diff_adds_and_takes_nothing_away(cli: Cli, manifest: Path) -> None:
    done = rewrite(cli, manifest)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("--- a/")
    assert not [line for line in lines[2:] if line.startswith("-")]
    for flag in FLAGS:
        assert f"+        - {flag}" in lines
    assert done.stderr == "left alone: Service/chat: it holds no pod; its pods are changed when they are created\n"


def test_the_result_keeps_comments_where_they_were(cli: Cli, manifest: Path) -> None:
    text = rewrite(cli, manifest, "-o", "yaml").stdout
    kept = [line for line in MANIFEST.splitlines() if line.strip()]
    assert [line for line in text.splitlines() if line in kept] == kept
    lines = text.splitlines()
    flag = lines.index(f"        - {FLAGS[-1]}")
    assert lines[flag + 1] == "        # where it listens"
    deployment, service = YAML(typ="safe").load_all(text)
    assert deployment["spec"]["template"]["spec"]["containers"][0]["args"][-2:] == FLAGS
    assert service["metadata"] == {"name": "chat"}


def test_rewriting_again_changes_nothing(cli: Cli, manifest: Path) -> None:
    once = rewrite(cli, manifest, "-o", "yaml").stdout
    assert rewrite(cli, "-", stdin=once).stdout == ""


def test_flow_style_and_deep_indentation(cli: Cli) -> None:
    text = (
        "kind: Pod\nmetadata: {name: p}\nspec:\n    containers:\n      - name: vllm\n"
        '        image: "vllm/vllm-openai:v0.11.0"\n        args: ["--model", org/m]  # short\n'
    )
    done = rewrite(cli, "-", "-o", "yaml", stdin=text)
    assert done.stderr.startswith("stdin is laid out in another way than it is written here (indentation, blanks)")
    assert len(done.stderr.splitlines()) == 1
    result = done.stdout
    assert f'args: ["--model", org/m, {FLAGS[0]}, {FLAGS[1]}] # short' in result
    assert '"vllm/vllm-openai:v0.11.0"' in result


def test_the_indentation_of_lists_stays(cli: Cli) -> None:
    text = (
        "kind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n    - name: vllm\n"
        "      image: vllm/vllm-openai:v0.11.0\n      args:\n        - --model=m\n"
    )
    done = rewrite(cli, "-", "-o", "yaml", stdin=text)
    assert done.stderr == ""
    assert f"        - --model=m\n        - {FLAGS[0]}\n" in done.stdout


def test_shared_nodes_are_changed_once(cli: Cli) -> None:
    text = (
        "kind: List\nitems:\n- kind: Pod\n  metadata: {name: a}\n  spec: &spec\n    containers:\n    - name: vllm\n"
        "      image: vllm/vllm-openai:v0.11.0\n      args: [--model, m]\n"
        "- kind: Pod\n  metadata: {name: b}\n  spec: *spec\n"
    )
    result = rewrite(cli, "-", "-o", "yaml", stdin=text).stdout
    first, second = YAML(typ="safe").load(result)["items"]
    assert first["spec"] == second["spec"]
    assert first["spec"]["containers"][0]["args"] == ["--model", "m", *FLAGS]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "stdin is no YAML: "),
        ("", "stdin holds no object; give a manifest such as a Pod or a Deployment"),
        ("- 1", "stdin holds something that is no Kubernetes object: it has no `kind`"),
        (
            "kind: Pod\nspec: {containers: [{name: a, image: vllm/vllm-openai, env: 5, args: [--model, m]}]}",
            "stdin: Pod does not have the fields of its kind: ",
        ),
        ("kind: a\nkind: b", "stdin is no YAML: found duplicate key"),
        ("kind: Pod\nmetadata: {creationTimestamp: 2026-02-30}", "stdin is no YAML: day is out of range for month"),
        ("a: 1", "stdin holds something that is no Kubernetes object: it has no `kind`"),
        ("kind: Pod\nspec: &spec {containers: [{name: a, image: vllm/vllm-openai}], again: *spec}", f"stdin {NO_END}"),
        ("[" * 400 + "]" * 400, f"stdin {NO_END}"),
    ],
)
def test_what_is_no_manifest(cli: Cli, text: str, message: str) -> None:
    done = rewrite(cli, "-", stdin=text)
    assert done.returncode == 2
    assert done.stderr.startswith(f"vllm-rightsizer: {message}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["rewrite", "-f", str(EXAMPLES / "llama-3-8b.yaml"), "--kv-bytes", "4294967296"],
        ["list", "--objects", str(EXAMPLES / "cluster")],
        ["plan", "--objects", str(EXAMPLES / "cluster")],
        ["plan", "--objects", str(EXAMPLES / "cluster"), "-o", "json"],
    ],
)
def test_no_room_for_the_output(cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        done = cli(*arguments)
    assert (done.returncode, done.stderr) == (
        1,
        "vllm-rightsizer: the output cannot be written (No space left on device): make room, or send it elsewhere\n",
    )


def test_a_manifest_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    done = rewrite(cli, tmp_path / "gone.yaml")
    assert (done.returncode, done.stderr) == (
        2,
        f"vllm-rightsizer: {tmp_path}/gone.yaml cannot be read: No such file or directory\n",
    )


def test_a_utilization_that_is_none(cli: Cli, manifest: Path) -> None:
    done = cli("rewrite", "-f", str(manifest), "--kv-bytes", "1", "--utilization", "90")
    assert (done.returncode, done.stderr) == (
        2,
        "vllm-rightsizer: --utilization 90.0 is no fraction of the memory: give one above 0 and at most 1\n",
    )


def review(obj: object) -> str:
    request = {"uid": "u-1", "operation": "CREATE", "namespace": "demo", "object": obj}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


POD = {
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "demo"},
    "spec": {"containers": [{"name": "vllm", "image": "vllm/vllm-openai:v0.11.0", "args": ["--model", "m"]}]},
}


def test_admit_answers_with_a_patch(cli: Cli) -> None:
    done = cli("admit", stdin=review(POD))
    assert done.returncode == 0
    response = json.loads(done.stdout)["response"]
    assert (response["uid"], response["allowed"]) == ("u-1", True)
    patched = jsonpatch.apply_patch(POD, json.loads(base64.b64decode(response["patch"])))
    assert patched["metadata"]["labels"] == {"vllm-rightsizer.io/injected": "true"}


@pytest.mark.parametrize("obj", [{"kind": "Service", "metadata": {"name": "s"}}, None, 7])
def test_admit_allows_what_is_not_a_pod(cli: Cli, obj: object) -> None:
    done = cli("admit", stdin=review(obj))
    response = json.loads(done.stdout)["response"]
    assert response["allowed"] is True
    assert "patch" not in response


def test_admit_allows_a_review_without_a_request(cli: Cli) -> None:
    done = cli("admit", stdin='{"kind": "AdmissionReview"}')
    assert json.loads(done.stdout)["response"]["allowed"] is True


@pytest.mark.parametrize("stdin", ["", "{", "[]", '{"kind": "Pod"}'])
def test_admit_says_what_is_no_review(cli: Cli, stdin: str) -> None:
    done = cli("admit", stdin=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vllm-rightsizer: stdin: ")
    assert "AdmissionReview" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_explain_says_what_is_missing(cli: Cli, tmp_path: Path) -> None:
    history = str(tmp_path / "history.db")
    done = cli("explain", "web", "--objects", str(tmp_path / "gone"), "--history", history)
    assert (done.returncode, done.stderr) == (
        2,
        (
            f"vllm-rightsizer: --objects {tmp_path}/gone is no folder; "
            "create it, or give the one in which the objects lie\n"
        ),
    )
    done = cli("explain", "web", "-n", "demo", "--objects", str(tmp_path), "--history", history)
    assert done.returncode == 2
    assert done.stderr.startswith("vllm-rightsizer: there is no workload web in namespace demo, nor any other")
    assert io.StringIO(done.stderr).readlines()[1:] == []


def test_admit_says_which_folder_is_missing(cli: Cli, tmp_path: Path) -> None:
    done = cli("admit", "--objects", str(tmp_path / "gone"), stdin="{}")
    assert done.returncode == 2
    assert done.stderr.startswith(f"vllm-rightsizer: --objects {tmp_path}/gone is no folder")
