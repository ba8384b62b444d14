"""How workloads are named on the command line, and what is said of a name that fits none, or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from recommender.api.workloads import WorkloadRef
from recommender.keys import WorkloadKey
from vllm_rightsizer.errors import UsageError
from vllm_rightsizer.workload_names import Known, chosen, one_of

Cli = Callable[..., CompletedProcess[str]]
CLUSTER = Path(__file__).parents[3] / "deploy" / "examples" / "cluster"


def known(kind: str, name: str, container: str = "vllm", group: str = "apps") -> Known:
    reference = WorkloadRef(group, kind, name)
    return Known(WorkloadKey("chat", reference, container), f"{kind.lower()}-{name}-{container}-00000000")


LLAMA = known("Deployment", "llama")
SAME = known("StatefulSet", "llama")
SECOND = known("StatefulSet", "llama", "second")
MISTRAL = known("LeaderWorkerSet", "mistral-7b", group="leaderworkerset.x-k8s.io")
ALL = [LLAMA, SAME, SECOND, MISTRAL]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("llama", [LLAMA, SAME, SECOND]),
        ("mistral-7b", [MISTRAL]),
        ("Deployment/llama", [LLAMA]),
        ("deployment/llama", [LLAMA]),
        ("deployments/llama", [LLAMA]),
        ("deployment.apps/llama", [LLAMA]),
        ("deploy/llama", [LLAMA]),
        ("sts/llama", [SAME, SECOND]),
        ("StatefulSet/llama/second", [SECOND]),
        ("lws/mistral-7b", [MISTRAL]),
        ("statefulset-llama-second-00000000", [SECOND]),
        ("vllmrec/statefulset-llama-second-00000000", [SECOND]),
    ],
)
def test_names(text: str, meant: list[Known]) -> None:
    assert chosen(text, ALL, "chat") == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "lama",
            r"no workload lama in namespace chat has a recommendation: did you mean llama\? `vllm-rightsizer",
        ),
        ("mistral", r"did you mean mistral-7b\? "),
        ("deploy/mistral-7b", r"did you mean LeaderWorkerSet/mistral-7b\? "),
        ("pod/lama", r"did you mean Deployment/llama or StatefulSet/llama\? "),
        ("qwen", r"has a recommendation: `vllm-rightsizer list -n chat` shows all that have one"),
        ("vllmrec/llama/vllm", r"no workload vllmrec/llama/vllm in namespace chat"),
        ("a//b", "a//b names no workload: give NAME, KIND/NAME or KIND/NAME/CONTAINER"),
        ("", "names no workload"),
    ],
)
def test_names_that_fit_none(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(text, ALL, "chat")


def test_where_there_are_none() -> None:
    with pytest.raises(UsageError, match=r"`vllm-rightsizer list -n chat` says what to do, and `.* list -A` shows"):
        chosen("llama", [], "chat")


def test_one_is_asked_for_and_several_fit() -> None:
    assert one_of("deploy/llama", ALL, "chat") == LLAMA
    with pytest.raises(UsageError, match=r"say StatefulSet/llama/second or StatefulSet/llama/vllm$"):
        one_of("sts/llama", ALL, "chat")


def test_as_they_are_typed(cli: Cli) -> None:
    """Without a history: what the status says, and where the rest is."""
    where = ("--objects", str(CLUSTER), "-n", "chat")
    for name in ("llama-3-8b", "sts/llama-3-8b", "StatefulSet/llama-3-8b/vllm"):
        done = cli("explain", name, *where)
        assert done.returncode == 0, done.stderr
        assert "StatefulSet llama-3-8b, container vllm, in chat" in done.stdout
        assert "with --history" in done.stdout
    done = cli("explain", "llama-3", *where)
    assert done.returncode == 2
    assert "did you mean llama-3-70b or llama-3-8b? `vllm-rightsizer list -n chat` shows" in done.stderr
