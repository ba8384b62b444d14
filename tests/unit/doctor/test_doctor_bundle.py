"""What a support bundle holds, and what it never does."""

from __future__ import annotations

import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest
from installation import CHAT, POD, Installation

from recommender.api.apiserver.connection import ApiServer
from vllm_plugin.names import ANNOTATION_ORIGINAL_ARGS, ANNOTATION_SKIPPED, VERSION
from vllm_rightsizer.doctor.bundle import contents, logs_and_events, write
from vllm_rightsizer.doctor.checks import CHECKS
from vllm_rightsizer.doctor.findings import Finding, Severity, diagnosed
from vllm_rightsizer.doctor.report import as_text, documents
from vllm_rightsizer.doctor.scrubbing import scrubbed
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


class _Broken(BaseHTTPRequestHandler):
    """A log that breaks off behind a secret, one that is not JSON and no UTF-8, and events that are refused."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/events"):
            self._answer(500, json.dumps({"reason": "InternalError", "message": f"password: {SECRET}"}).encode())
        elif "recommender" in path:
            self._answer(200, b"\xff token is " + SECRET.encode() + b"\nmax_tokens: 5\n")
        else:
            self._answer(200, f'{{"message": "begun", "api_key": "{SECRET}"}}\n'.encode(), missing=10)

    def _answer(self, status: int, body: bytes, missing: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + missing))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Iterator[Path]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Broken) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        cluster = {"name": "one", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "one", "context": {"cluster": "one", "user": "one"}}
        config = {"clusters": [cluster], "contexts": [context], "users": [{"name": "one", "user": {}}]}
        file = tmp_path / "kubeconfig"
        file.write_text(json.dumps({**config, "current-context": "one", "kind": "Config", "apiVersion": "v1"}))
        yield file
        server.shutdown()


async def test_what_of_a_log_was_read_is_kept_without_secrets(kubeconfig: Path) -> None:
    server = await ApiServer.connect(kubeconfig)
    try:
        files = await logs_and_events(server, Installation().facts())
    finally:
        await server.close()
    assert [path for path, text in files.items() if SECRET in text] == []
    first, last = files["logs/vllm-rightsizer-webhook-abc.log"].splitlines()
    assert json.loads(first) == {"message": "begun", "api_key": "(left out)"}
    assert last.startswith("not read: ")
    assert files["logs/vllm-rightsizer-recommender-abc.log"] == "\ufffd token is (left out)\nmax_tokens: 5\n"
    assert "password: (left out)" in json.loads(files["events.json"])["notRead"]


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
    assert json.loads(held["versions.json"])["images"] == [f"vllm-rightsizer/vllm-rightsizer:{VERSION}"]
    assert {"objects/mutatingwebhookconfiguration.json", "objects/deployment.json"} < held.keys()


def test_a_bundle_that_cannot_be_written_says_where(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"bundle\.tar\.gz cannot be written: No such file"):
        write(tmp_path / "nowhere" / "bundle.tar.gz", {})


def test_report_has_each_command_on_a_line_of_its_own() -> None:
    command = "kubectl -n chat " + "x" * 200
    found = Finding("Name", Severity.WARNING, "Pod chat/llama", "seen [here]", "because", command)
    text = as_text([found], width=60)
    assert f"  fix   {command}\n" in text
    assert "WARNING  Name  Pod chat/llama" in text
    assert "seen [here]" in text
    assert text.endswith("1 warning\n")
    assert documents([found])[0]["severity"] == "warning"
    assert "\x1b[" in as_text([found], colours=True)
    assert as_text([]).startswith("nothing found")


def test_what_cannot_be_read_leaves_a_sentence_and_the_rest_of_the_bundle(tmp_path: Path) -> None:
    there = Installation()
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    there.one("Service")["spec"]["deep"] = deep
    there.add({"kind": "NetworkPolicy", "spec": SECRET})
    there.container["env"] = [SECRET, {"name": "KEPT", "value": SECRET}]
    there.one("Namespace", CHAT)["metadata"]["annotations"] = [SECRET]
    facts = there.facts(unseen={"Node": f"https://me:{SECRET}@host/api: refused"})
    broken = Finding("Name", Severity.NOTE, "about", cast(str, {1: {SECRET}}), "why", "fix")
    files = contents(facts, [broken], {"logs/one.log": "\ud800"})
    write(tmp_path / "bundle.tar.gz", files)
    assert [path for path, text in files.items() if SECRET in text] == []
    services = json.loads(files["objects/service.json"])
    assert services[0] == {"leftOut": "it cannot be read: RecursionError"}
    assert services[1:] or len(there.objects["Service"]) == 1
    assert json.loads(files["objects/networkpolicy.json"]) == {"leftOut": "it cannot be read: KeyError"}
    assert "KEPT" in files["objects/pod.json"]
    assert "(left out)@host/api: refused" in files["not-looked-at.json"]
    assert json.loads(files["objects/deployment.json"])[0]["kind"] == "Deployment"


def test_a_program_and_its_options_may_stand_in_two_lists() -> None:
    for command, given, left in (
        (["redis-cli"], ["-a", SECRET], ["-a", "(left out)"]),
        (["vllm", "serve", "--api-key"], [SECRET], ["(left out)"]),
        (["vllm"], ["serve", "-p", "8"], ["serve", "-p", "8"]),
    ):
        for names in (("command", "args"), ("args", "command")):
            both = dict(zip(names, (command, given) if names[0] == "command" else (given, command), strict=True))
            assert scrubbed(both) == {"command": command, "args": left}
    assert scrubbed({"command": "redis-cli", "args": ["-a", "x"]}) == {"command": "redis-cli", "args": ["-a", "x"]}


def test_labels_are_kept() -> None:
    labels = {"auth": "enabled", "app": "token"}
    for name in ("labels", "matchLabels", "nodeSelector", "selector"):
        assert scrubbed({name: labels}) == {name: labels}
        assert scrubbed({"selector": {name: labels}}) == {"selector": {name: labels}}
        assert scrubbed({name: {"auth": f"sk-abcdefghijklmnop{SECRET}"}}) == {name: {"auth": "(left out)"}}
        assert json.loads(scrubbed(json.dumps({name: labels})))[name]["auth"] == "(left out)"
    assert scrubbed({"volumeAttributes": {"labels": labels}})["volumeAttributes"]["labels"]["auth"] == "(left out)"


def test_objects_keep_the_names_of_secrets_and_lose_what_drivers_are_told() -> None:
    volumes = [
        {"secret": {"secretName": "hf", "items": [{"key": "token", "path": "token"}]}},
        {"csi": {"driver": "x", "volumeAttributes": {"password": SECRET, "share": "a"}}},
    ]
    kept = {"imagePullSecrets": [{"name": "pull"}], "tolerations": [{"key": "nvidia.com/gpu", "value": "true"}]}
    left = scrubbed({"volumes": volumes, "parameters": [{"name": "hf.token", "value": SECRET}], **kept})
    assert left["volumes"][0] == volumes[0]
    assert left["volumes"][1]["csi"]["volumeAttributes"] == {"password": "(left out)", "share": "a"}
    assert left["parameters"] == [{"name": "hf.token", "value": "(left out)"}]
    assert {name: left[name] for name in kept} == kept
    assert scrubbed({f"sk-abcdefghijklmnop{SECRET}": 1}) == {"(left out)": 1}


def test_objects_of_ours_are_kept_whole() -> None:
    there = Installation()
    for kind, raws in there.objects.items():
        for raw in raws:
            assert [*_differences(raw, scrubbed(raw))] == [], kind


def _differences(one: object, other: object) -> list[object]:
    """But for environments, annotations and what is dropped."""
    if isinstance(one, dict) and isinstance(other, dict):
        names = [name for name in one if name not in ("env", "annotations", "managedFields")]
        return [found for name in names for found in _differences(one[name], other.get(name))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for pair in zip(one, other, strict=True) for found in _differences(*pair)]
    return [] if one == other else [(one, other)]
