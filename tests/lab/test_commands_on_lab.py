"""Every command that pages show for a cluster, but for those of the pages that are run whole: each does something."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from bench.lab.client import Raw, documents
from bench.lab.kubectl import Kubectl
from bench.lab.page_commands import NOT_RUN, commands, commands_in_sentences, pages_of
from bench.lab.programs import ROOT, LabError, folder_with
from vllm_plugin.names import ANNOTATION_EXCLUDE

from .doctor_lab import wait_until_well
from .lab_cluster import (
    CHAT,
    NAME,
    NAMESPACE,
    QUICK_START,
    RECOMMENDER,
    RELEASE,
    WEBHOOK,
    Installed,
    is_ready,
    our_pods,
    ready_pod,
    wait_for,
)
from .pages import reader, run_one

API_PAGE = "docs/api.md"
API_PORT = 9416
CRASHED = "crashed"
# Commands about others' kinds: what has the definition, and its file there.
FOREIGN = {
    "get certificate": ("cert-manager-controller", "crd-certificates.yaml"),
    "describe certificate": ("cert-manager-controller", "crd-certificates.yaml"),
    "podmonitor": ("monitoring.coreos.com_podmonitors.yaml",) * 2,
    "scaledobject": ("keda.sh_scaledobjects.yaml",) * 2,
}
# What a reader puts in place of words in capitals, and of other names.
KNOWN = {
    "NAMESPACE": CHAT,
    "WORKLOAD": NAME,
    "KIND": "deployment",
    "CONTAINER": "vllm",
    "deployment/NAME": f"deployment/{NAME}",
    "vllmpol NAME": "vllmpol default",
    "deployment/assistant": f"deployment/{NAME}",
    "what-if assistant": f"what-if {NAME}",
}


@dataclass(frozen=True)
class Shown:
    page: str
    command: str

    def __str__(self) -> str:
        return f"{self.page.removeprefix('docs/')}: {self.command.splitlines()[0][:70]}"


def filled(command: str, words: dict[str, str]) -> str:
    for word, meant in words.items():
        # A column may be called so, too: `NAMESPACE:.metadata.namespace`.
        command = re.sub(rf"(?<![\w.]){re.escape(word)}(?!\w|:\.)", meant, command)
    return command


def _shown() -> list[Shown]:
    """Each command once, whatever pages show it; none that is run with a whole page."""
    seen = {command for page in (QUICK_START, "docs/install.md") for command in commands(page)}
    found: list[Shown] = []
    for page in pages_of("tests/lab/test_commands_on_lab.py"):
        for command in [*commands(page), *commands_in_sentences(page)]:
            meant = filled(command, KNOWN)
            # What a comment says is for the reader.
            bare = re.sub(r"\s+# .*$", "", meant)
            if page != API_PAGE and (page, command) not in NOT_RUN and bare not in seen:
                seen.add(bare)
                found.append(Shown(page, meant))
    # After a restart vLLM is away for a minute.
    return sorted(found, key=lambda shown: "rollout restart" in shown.command)


@pytest.fixture(scope="module")
def environment(kubectl: Kubectl, real: Raw) -> dict[str, str]:
    """Of a reader whose cluster is called `production`, and whose namespace there is that of the pages."""
    assert real
    environment = reader(kubectl)
    file = kubectl.scratch / "production.kubeconfig"
    file.write_text(kubectl("config", "view", "--raw", "--flatten"))
    environment["KUBECONFIG"] = str(file)
    context = kubectl("config", "current-context").strip()
    kubectl("config", "rename-context", context, "production", f"--kubeconfig={file}")
    kubectl("config", "set-context", "production", f"--namespace={CHAT}", f"--kubeconfig={file}")
    return environment


@pytest.fixture(scope="module")
def crashed(kubectl: Kubectl) -> Iterator[str]:
    """A pod whose container has ended and was started again."""
    spec = ready_pod(kubectl)["spec"]
    container = {name: spec["containers"][0][name] for name in ("name", "image", "imagePullPolicy")}
    container |= {"command": ["/usr/bin/false"], "volumeMounts": [{"name": "usr", "mountPath": "/usr"}]}
    volume = {"name": "usr", "hostPath": {"path": "/usr"}}
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": CRASHED, "namespace": CHAT, "annotations": {ANNOTATION_EXCLUDE: "true"}},
            "spec": {"containers": [container], "volumes": [volume], "terminationGracePeriodSeconds": 1},
        }
    )
    wait_for(lambda: _restarts(kubectl) > 0, "a second start")
    yield CRASHED
    kubectl("delete", "pod", f"--namespace={CHAT}", CRASHED)


def _restarts(kubectl: Kubectl) -> int:
    status = kubectl.get("pod", f"--namespace={CHAT}", CRASHED)["status"]
    return sum(int(one["restartCount"]) for one in status.get("containerStatuses", ()))


@pytest.fixture(scope="module")
def kinds_of_others(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[None]:
    """cert-manager's, KEDA's and the Prometheus operator's, as they ship them."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        files = {folder_with(program) / file for program, file in FOREIGN.values()}
    made = [definition for file in files for definition in documents(file)]
    for definition in made:
        # Of cert-manager's a template of Helm's.
        definition["metadata"].pop("labels", None)
        kubectl.apply(definition)
    names = [f"customresourcedefinition/{definition['metadata']['name']}" for definition in made]
    kubectl("wait", "--for=condition=Established", "--timeout=300s", *names)
    yield
    kubectl("delete", *names)


@pytest.mark.parametrize("shown", _shown(), ids=str)
def test_command(kubectl: Kubectl, environment: dict[str, str], request: pytest.FixtureRequest, shown: Shown) -> None:
    command = shown.command
    if any(words in command for words in FOREIGN):
        request.getfixturevalue("kinds_of_others")
    if command.startswith((f"{RELEASE} webhook", f"{RELEASE} recommender")):
        _runs_in_a_pod(kubectl, command)
        return
    if command.startswith(f"{RELEASE} doctor"):
        # It says by its exit code that it finds nothing.
        wait_until_well(kubectl)
    pod = request.getfixturevalue("crashed") if "--previous" in command else _pod_meant(kubectl, command)
    [found] = kubectl.items(f"--namespace={CHAT}", "vllmrec")
    command = filled(command, {"POD": pod, "vllmrec NAME": f"vllmrec {found['metadata']['name']}"})
    if "--history /data/" in command and command.startswith(RELEASE):
        # It runs where the history is, in our image; there it is the module.
        inside = f"kubectl -n {NAMESPACE} exec deploy/{RELEASE}-recommender -- python3 -m vllm_rightsizer"
        command = command.replace(RELEASE, inside, 1)
    print(run_one(command, environment))


def _pod_meant(kubectl: Kubectl, command: str) -> str:
    """One of our servers where their port is asked, otherwise the one with vLLM."""
    for port, component in ((":9416/", RECOMMENDER), (":8443/", WEBHOOK)):
        if port in command:
            ready = wait_for(lambda of=component: next(filter(is_ready, our_pods(kubectl, of)), None), component)
            return str(ready["metadata"]["name"])
    return str(ready_pod(kubectl)["metadata"]["name"])


def _runs_in_a_pod(kubectl: Kubectl, command: str) -> None:
    """The chart's pods run this program, with these options and more."""
    _, server, *options = shlex.split(command)
    given = {f"{name}={value}" for name, value in zip(options[::2], options[1::2], strict=True)}
    component = {"webhook": WEBHOOK, "recommender": RECOMMENDER}[server]
    for pod in our_pods(kubectl, component):
        first, *arguments = pod["spec"]["containers"][0]["args"]
        assert first == server
        assert given <= set(arguments)


def test_the_page_of_the_api(kubectl: Kubectl, environment: dict[str, str], installed: Installed) -> None:
    """With the value that the API takes; through the port-forward that the page opens first."""
    kubectl.helm(
        *("upgrade", RELEASE, str(ROOT / "deploy" / "chart"), f"--namespace={NAMESPACE}", "--reset-then-reuse-values"),
        *("--set=recommender.api.enabled=true", "--wait", "--timeout=15m"),
    )
    assert installed.began
    forward, *asked = commands(API_PAGE)
    assert "port-forward" in forward
    # kubectl makes do with IPv6 where somebody has the port of IPv4, whom curl would ask then.
    wait_for(_nobody_answers, f"the end of what has port {API_PORT} of this machine")
    with subprocess.Popen(["bash", "-c", f"exec {forward}"], cwd=ROOT, env=environment) as forwarding:
        try:
            wait_for(_answers, "the port-forward")
            workloads, decision, what_if = asked
            for command, answer in ((workloads, f'"{NAME}"'), (decision, r"\w"), (what_if, f'"{NAME}"')):
                wait_for(lambda command=command, answer=answer: _says(command, environment, answer), command)
        finally:
            forwarding.terminate()
    [through_the_server] = commands_in_sentences(API_PAGE)
    path = f"namespaces/{NAMESPACE}/services/{RELEASE}-recommender"
    asked_of_it = through_the_server.replace("namespaces/NAMESPACE/services/NAME", path)
    wait_for(lambda: _says(asked_of_it, environment, NAME), asked_of_it)


def _says(command: str, environment: dict[str, str], answer: str) -> bool:
    """Whether it prints what fits, and no `null`. Where the API has no time it says when to ask again, in JSON, too."""
    try:
        printed = run_one(command, environment)
    except AssertionError as error:
        raise LabError(str(error)) from error
    return bool(re.search(answer, printed)) and printed.strip() != "null"


def _nobody_answers() -> bool:
    for address in ("127.0.0.1", "::1"):
        with suppress(OSError), socket.create_connection((address, API_PORT), timeout=1):
            raise LabError(f"somebody listens on {address}")
    return True


def _answers() -> bool:
    try:
        socket.create_connection(("localhost", API_PORT), timeout=1).close()
    except OSError as error:
        raise LabError(str(error)) from error
    return True
