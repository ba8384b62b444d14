"""What a support bundle holds, and what it never does."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from installation import CHAT, POD, Installation

from vllm_plugin.names import ANNOTATION_ORIGINAL_ARGS, ANNOTATION_SKIPPED
from vllm_rightsizer.doctor.bundle import contents, scrubbed, without_tokens, write
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.findings import Finding, Severity, diagnosed
from vllm_rightsizer.doctor.report import as_text, documents
from vllm_rightsizer.errors import UserError

SECRET = "hunter2"


def confidential() -> Installation:
    """What people write in many places."""
    there = Installation()
    pod = there.one("Pod", POD)
    there.container["env"] += [
        {"name": "HF_TOKEN", "value": SECRET},
        {"name": "OTHER", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "k"}}},
    ]
    there.container["args"] = [
        f"--api-key={SECRET}",
        "--hf-token",
        SECRET,
        "--port",
        "8000",
        "--max-num-batched-tokens=8192",
        f"--header=Authorization: Bearer {SECRET}",
        f"--proxy=https://me:{SECRET}@proxy.example.com",
    ]
    there.container["command"] = ["sh", "-c", f'export AWS_SECRET_ACCESS_KEY="{SECRET} {SECRET}"; exec vllm serve "$@"']
    header = {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": SECRET}]}}
    there.container["readinessProbe"] = header
    pod["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"env": SECRET}),
        ANNOTATION_ORIGINAL_ARGS: json.dumps({"vllm": ["--api-key", SECRET]}),
        ANNOTATION_SKIPPED: "no recommendation",
    }
    there.condition("Degraded", "True", message=f"exit code 2: unknown argument --hf-token={SECRET}")
    there.one("Deployment")["metadata"]["annotations"] = {"note": SECRET}
    there.add({"kind": "Secret", "metadata": {"name": "s", "namespace": CHAT}, "data": {"a": SECRET}})
    return there


def test_nothing_confidential_is_in_it() -> None:
    facts = confidential().facts()
    files = contents(facts, diagnosed(facts, CHECKS), {})
    assert [path for path, text in files.items() if SECRET in text] == []
    pod = files["objects/pod.json"]
    assert "HF_TOKEN" in pod
    assert "no recommendation" in pod
    assert '"8000"' in pod
    assert "--max-num-batched-tokens=8192" in pod
    assert "Secrets: none was kept" in files["LEFT-OUT.txt"]
    assert "proxy.example.com" in pod


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("--api-key abc --port 1", "--api-key (left out) --port 1"),
        ("HF_TOKEN='a b' vllm serve", "HF_TOKEN=(left out) vllm serve"),
        ("POST https://me:abc@host/x: 403", "POST https://(left out)@host/x: 403"),
        ("Authorization: Bearer abc", "Authorization: Bearer (left out)"),
        ("with hf_abcdefghijklmnopqrst", "with (left out)"),
        ("the Secret webhook-tls is gone: https://host/x", "the Secret webhook-tls is gone: https://host/x"),
        ("--kv-cache-memory-bytes=1 --tokenizer=x", "--kv-cache-memory-bytes=1 --tokenizer=x"),
    ],
)
def test_texts_lose_what_is_confidential_and_no_more(text: str, left: str) -> None:
    assert without_tokens(text) == left


def test_it_holds_what_is_ours_and_what_was_found(tmp_path: Path) -> None:
    there = Installation()
    there.condition("Degraded", "True")
    facts = there.facts()
    file = tmp_path / "bundle.tar.gz"
    write(file, contents(facts, diagnosed(facts, CHECKS), {"logs/one.log": "line\n"}))
    with tarfile.open(file) as tar:
        held = {
            entry.name.removeprefix("vllm-rightsizer/"): tar.extractfile(entry).read()  # type: ignore[union-attr] # files
            for entry in tar
        }
    assert held["logs/one.log"] == b"line\n"
    assert [one["name"] for one in json.loads(held["findings.json"])] == ["RecommendationDegraded"]
    [recommended] = json.loads(held["objects/vllmrecommendation.json"])
    assert recommended["metadata"]["namespace"] == CHAT
    assert json.loads(held["versions.json"])["images"] == ["vllm-rightsizer/vllm-rightsizer:0.1.0"]
    assert {"objects/mutatingwebhookconfiguration.json", "objects/deployment.json"} < held.keys()


def test_a_bundle_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bundle\.tar\.gz cannot be written: No such file"):
        write(tmp_path / "nowhere" / "bundle.tar.gz", {})


def test_report_has_each_command_on_a_line_of_its_own() -> None:
    command = "kubectl -n chat " + "x" * 200
    found = Finding("Name", Severity.WARNING, "Pod chat/llama", "seen [here]", "because", f"{command}\nEOF")
    text = as_text([found], width=60)
    assert f"  fix   {command}\n        EOF\n" in text
    assert "WARNING  Name  Pod chat/llama" in text
    assert "seen [here]" in text
    assert text.endswith("1 warning\n")
    assert documents([found])[0]["severity"] == "warning"
    assert "\x1b[" in as_text([found], colours=True)
    assert as_text([]).startswith("nothing found")


def test_a_value_in_json_is_left_out_of_an_argument_and_of_a_text() -> None:
    said = '{"redis_password": "s3cret", "rank": 3}'
    left = scrubbed({"args": [f"--kv-transfer-config={said}"], "message": said, "command": ["sh", "--api-key s3"]})
    assert left["args"] == ['--kv-transfer-config={"redis_password": (left out), "rank": 3}']
    assert left["message"] == '{"redis_password": (left out), "rank": 3}'
    assert left["command"][1] == "--api-key (left out)"
