"""The reading commands without `--objects`: how they find the API server, and what is said where they do not get what
they need."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Cli = Callable[..., CompletedProcess[str]]
Answer = Callable[[str], tuple[int, str]]

PLAN = ("plan",)
COMMANDS = [
    PLAN,
    ("list",),
    ("list", "--watch"),
    ("explain", "llama", "--history", "history.db"),
    ("what-if", "--history", "history.db", "--set", "percentile=95"),
]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No kubeconfig of this machine counts, and this is no pod."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def kubeconfig(file: Path, port: int) -> Path:
    file.parent.mkdir(exist_ok=True)
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    user = {"name": "u", "user": {"token": "t"}}
    config = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "x"}
    file.write_text(json.dumps(config))
    return file


@contextmanager
def server(answer: Answer) -> Iterator[int]:
    """Answers each path with a status and a body, on a port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = answer(self.path)
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running.server_port
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ([], 1, "give a --kubeconfig, or the objects in a folder with --objects"),
        (["--kubeconfig", "gone"], 1, "vllm-rightsizer: gone cannot be used (there is no such file)"),
        (["--context", "lab"], 2, "give its file with --kubeconfig"),
        (["--objects", ".", "--context", "lab"], 2, "--objects stands in for the API server"),
        (["--objects", ".", "--kubeconfig", "gone"], 2, "--objects stands in for the API server"),
    ],
)
def test_no_way_to_the_api_server(cli: Cli, command: tuple[str, ...], options: list[str], code: int, said: str) -> None:
    done = cli(*command, *options)
    assert done.returncode == code
    [line] = done.stderr.splitlines()
    assert said in line
    assert not done.stdout


def test_as_kubectl_finds_it(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        kubeconfig(tmp_path / ".kube" / "config", port)
        done = cli(*PLAN)
        assert done.returncode == 1
        assert f"http://127.0.0.1:{port} cannot be reached" in done.stderr
        monkeypatch.setenv("KUBECONFIG", "another")
        assert "another cannot be used" in cli(*PLAN).stderr


def test_an_empty_kubeconfig(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    done = cli(*PLAN, "--kubeconfig", str(tmp_path / "empty"))
    assert done.returncode == 1
    assert (
        done.stderr == f"vllm-rightsizer: {tmp_path}/empty cannot be used (it is empty): give a kubeconfig that works, "
        "or the objects in a folder with --objects\n"
    )


def test_of_several_kubeconfigs_none_is_there(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "one:two:")
    done = cli(*PLAN)
    assert done.returncode == 1
    assert done.stderr.startswith("vllm-rightsizer: one:two cannot be used")


@pytest.mark.parametrize("text", ["", "- a", "a: [", "clusters: 3", "\0"])
def test_a_kubeconfig_that_is_none(cli: Cli, tmp_path: Path, text: str) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    done = cli(*PLAN, "--kubeconfig", str(file))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "kubeconfig cannot be used" in line


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (403, "no, not you", "no, not you (grant the verb list on vllmrecommendations.vllm-rightsizer.io)"),
        (404, "no such page", "install the definitions that `vllm-rightsizer crds` prints"),
        (401, "who are you", "it does not take the credentials: log in again"),
        (500, "trouble", "500 Internal Server Error: trouble; try again later"),
        (200, "<html>", "is no API server: name one with --kubeconfig and --context"),
        (200, "[]", "is no API server"),
        (200, '{"kind": "Status"}', "is no API server"),
    ],
)
def test_what_the_server_does_not_give(cli: Cli, tmp_path: Path, code: int, text: str, said: str) -> None:
    with server(lambda _: (code, text)) as port:
        done = cli(*PLAN, "--kubeconfig", str(kubeconfig(tmp_path / "kubeconfig", port)))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_pages_that_expire_and_kinds_that_are_not_there(cli: Cli, tmp_path: Path) -> None:
    """What cannot be read in pages is read in one piece; an empty list may say null."""

    def answer(path: str) -> tuple[int, str]:
        if "/pods" in path and "limit" in path:
            return 410, "expired"
        if "argoproj.io" in path:
            return 404, "no such kind"
        return 200, json.dumps({"metadata": {"resourceVersion": "7"}, "items": None})

    with server(answer) as port:
        done = cli(*PLAN, "--kubeconfig", str(kubeconfig(tmp_path / "kubeconfig", port)), "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"stocks": [], "leftOut": []}


@pytest.mark.parametrize(
    ("code", "said"),
    [(200, "nothing is recommended yet in chat"), (403, "nothing is recommended: vLLM pods are measured once")],
)
def test_an_empty_list_says_what_to_do_as_far_as_it_may_look(cli: Cli, tmp_path: Path, code: int, said: str) -> None:
    chat = {"metadata": {"name": "chat", "labels": {"vllm-rightsizer.io/inject": "enabled"}}}

    def answer(path: str) -> tuple[int, str]:
        of_namespaces = path.startswith("/api/v1/namespaces")
        items = [chat] if of_namespaces else []
        return code if of_namespaces else 200, json.dumps({"metadata": {"resourceVersion": "7"}, "items": items})

    with server(answer) as port:
        done = cli("list", "--kubeconfig", str(kubeconfig(tmp_path / "kubeconfig", port)))
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith(said)


@pytest.mark.parametrize("scope", [(), ("--scope", "OptIn")])
def test_a_scope_that_may_not_be_looked_at(cli: Cli, tmp_path: Path, scope: tuple[str, ...]) -> None:
    def answer(path: str) -> tuple[int, str]:
        if "mutatingwebhookconfigurations" in path:
            return 403, "not for you"
        return 200, json.dumps({"metadata": {"resourceVersion": "7"}, "items": []})

    with server(answer) as port:
        done = cli(*PLAN, *scope, "--kubeconfig", str(kubeconfig(tmp_path / "kubeconfig", port)))
    assert done.returncode == 0
    assert "by --scope OptIn" in done.stdout
    said = "the scope is taken to be OptIn: mutatingwebhookconfigurations.admissionregistration.k8s.io cannot be listed"
    assert done.stderr.startswith(said) is (not scope)
    assert bool(done.stderr) is (not scope)
