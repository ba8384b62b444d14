"""Whatever stands in a pod, what is read of it stays bounded: the API server waits two seconds."""

from __future__ import annotations

import difflib
import json
import shlex
from typing import Any

import pytest
from webhook_cases import Raw, pod, review

import webhook.launches
import webhook.misspellings
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_AUTO
from webhook.admission import admit
from webhook.detection import MOST_ENGINES, detect
from webhook.effort import MOST, Effort, TooLongError
from webhook.knowledge import Knowledge
from webhook.misspellings import misspelt
from webhook.records import applied
from webhook.settings import InjectionSettings
from webhook.shells import read_script

_MEGABYTE = 1_000_000
_SHELLS = ["env", *(["bash", "-o"] * 30), "x"]
"""Each of the thirty may be the one that runs what follows."""


def _main(**more: Any) -> Raw:
    return {"name": "main", "image": "vllm/vllm-openai", **more}


def _nested(depth: int) -> str:
    return shlex.join([*_SHELLS, "-c", _nested(depth - 1)]) if depth else "x y; " * 500


_LONG: dict[str, Raw] = {
    "shell string": _main(command=["sh", "-c", "a b;" * 40_000], args=["x" * _MEGABYTE]),
    "many shell strings": _main(command=["env", *(["sh", "-c", "'a' b; " * 20_000] * 8), "x"]),
    "shells in shells": _main(command=[*_SHELLS, "-c", _nested(2)]),
    "parameters handed on and on": _main(
        command=[*[*_SHELLS, "-c", '"$@"', "sh"] * 3, *(["x"] * 3_000)],
    ),
    "eval of parameters": _main(
        command=["sh", "-c", "".join(f'eval a{at} "$@"\n' for at in range(5_000)), "sh", *(["y"] * 5_000)]
    ),
    "many items": _main(command=["vllm", "serve"], args=["x"] * 300_000),
    "many variables": _main(command=["vllm", "serve"], env=[{"name": f"A{at}", "value": ""} for at in range(100_000)]),
    "references": _main(
        command=["env", *(["sh", "-c", "$(A)" * 16] * 20)], env=[{"name": "A", "value": "a b;" * 2_000}]
    ),
}


@pytest.mark.parametrize("name", _LONG)
def test_a_pod_too_long_to_read_is_left_alone_with_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr(webhook.launches, "read_script", lambda text: read.append(len(text)) or read_script(text))
    response = admit(review(pod(_LONG[name])), Knowledge(), InjectionSettings())["response"]
    assert sum(read) <= MOST
    assert response["allowed"] is True
    assert response["auditAnnotations"]["outcome"] == "unread"
    assert "too long" in response["warnings"][0]
    assert "patch" not in response


def test_many_containers_are_too_long() -> None:
    before = pod(_main(command=["x"]))
    before["spec"]["containers"] *= 50_000
    assert detect(before).unread


def test_a_script_as_long_as_linux_takes_is_read() -> None:
    script = "# a comment\n" * 10_000 + "vllm serve m"
    assert len(script) > 120_000
    assert detect(pod(_main(command=["bash", "-c", script]))).engines


def test_effort_is_shared_by_all_that_is_read() -> None:
    effort = Effort(10)
    effort.spend(6)
    effort.spend(4)
    with pytest.raises(TooLongError):
        effort.spend(1)


def test_a_pod_of_very_many_engines_is_left_alone() -> None:
    before = pod(_main(command=["vllm", "serve", "m"]))
    more = [_main(name=f"e{at}", command=["vllm", "serve", "m"]) for at in range(MOST_ENGINES)]
    before["spec"]["containers"] = more
    assert len(detect(before).engines) == MOST_ENGINES
    before["spec"]["containers"] = [*more, _main(command=["vllm", "serve", "m"])]
    detection = detect(before)
    assert not detection.engines
    assert detection.unread


def test_few_options_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []

    def matcher(junk: None, one: str, other: str) -> difflib.SequenceMatcher[str]:
        compared.append(one)
        return difflib.SequenceMatcher(junk, one, other)

    monkeypatch.setattr(webhook.misspellings, "SequenceMatcher", matcher)
    # What other tests have had compared in this process is remembered.
    webhook.misspellings._alike.cache_clear()
    script = " ".join(f"--gpu-memory-utilisat{at:06}" for at in range(40_000))
    misspelt([script, *script.split()])
    assert len(compared) <= 1000
    # What is said twice is compared once.
    compared.clear()
    misspelt(["--gpu-memory-utilisation"] * 100)
    assert len(compared) == 1


@pytest.mark.parametrize("items", [["--a"] * 10_000, ["x" * 100_000]])
def test_a_record_that_we_would_not_write_is_none(items: list[str]) -> None:
    """It is looked for in the arguments, item by item."""
    before = pod(_main(), annotations={ANNOTATION_AUTO: "true", ANNOTATION_APPLIED: json.dumps({"main": items})})
    assert applied(before) == {}
