"""`list`, as a user types it: the table and how it fits, documents, and what is said where there is nothing."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from ruamel.yaml import YAML

from recommender.api.object_store import FileObjectStore
from recommender.api.recommendations import VLLMRecommendation
from vllm_plugin.names import LABEL_INJECT
from vllm_rightsizer.cli import main
from vllm_rightsizer.listing import hint_of, rows_in
from vllm_rightsizer.workload_tables import table_of

Cli = Callable[..., CompletedProcess[str]]
EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
MiB = 1 << 20


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A copy of the example's objects."""
    return Path(shutil.copytree(EXAMPLES / "cluster", tmp_path / "cluster"))


def change(objects: Path, workload: str, changed: Callable[[Any], None]) -> None:
    store = FileObjectStore(objects)
    [raw] = [one for one in store.list(VLLMRecommendation.KIND) if one["spec"]["targetRef"]["name"] == workload]
    changed(raw)
    store.apply(raw)


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def test_a_table(cli: Cli, objects: Path) -> None:
    done = cli("list", "--objects", str(objects))
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split("  ")[0] == "workload"
    assert " ".join(lines[1].split()) == (
        "chat/llama-3-8b 3 …-llama/Meta-Llama-3-8B-Instruct default 215 GiB 68.38 GiB 72.00 GiB 143 GiB (67%) "
        "64.7% → 63.9% waits for new pods"
    )
    assert " ".join(lines[3].split()) == "all 3 6 645 GiB 292 GiB 304 GiB 341 GiB (53%)"
    assert not any(line != line.rstrip() for line in (head, *lines))
    assert "\x1b" not in done.stdout


def test_wide_has_every_column_and_whole_names(cli: Cli, objects: Path) -> None:
    done = cli("list", "--objects", str(objects), "-o", "wide", "--sort", "saving")
    assert "meta-llama/Meta-Llama-3-70B-Instruct" in done.stdout
    head, first, *_ = done.stdout.splitlines()
    assert " ".join(head.split()).endswith("state kind container GPUs KV cache decided by worth a month why")
    assert first.startswith("chat/llama-3-8b ")
    assert first.endswith("others with 26462; the next pods start with it")


def test_documents_for_programs(cli: Cli, objects: Path) -> None:
    arguments = ("list", "--objects", str(objects), "-n", "chat", "-o")
    document = json.loads(cli(*arguments, "json").stdout)
    found = {one["name"]: one for one in document["workloads"]}
    llama = found["llama-3-70b"]
    assert (llama["replicas"], llama["gpus"]) == (1, 4)
    assert {one["policy"] for one in found.values()} == {"default"}
    assert llama["allocatedBytes"] == 4 * 73404 * MiB
    assert llama["recommendedBytes"] == 4 * 48 * 1024 * MiB
    assert llama["savedBytes"] == llama["allocatedBytes"] - llama["recommendedBytes"]
    assert llama["usedBytes"] == 4 * (45056 + 3100) * MiB
    assert document["total"]["gpus"] == 9
    assert document["total"]["savedBytes"] == sum(one["savedBytes"] for one in found.values())
    assert YAML(typ="safe", pure=True).load(cli(*arguments, "yaml").stdout) == document
    lines = list(csv.DictReader(io.StringIO(cli(*arguments, "csv").stdout)))
    assert [line["name"] for line in lines] == list(found)
    assert lines[0] == {name: "" if value is None else str(value) for name, value in llama.items()}


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (200, "workload replicas model policy allocated used recommended saving hit rate state"),
        (135, "workload replicas policy allocated used recommended saving hit rate state"),
        (120, "workload replicas allocated used recommended saving hit rate state"),
        (100, "workload replicas allocated used recommended saving state"),
        (80, "workload allocated recommended saving state"),
        (60, "workload recommended state"),
        (40, "workload recommended"),
        (10, "workload"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(objects: Path, width: int, columns: str) -> None:
    rows, _ = rows_in(FileObjectStore(objects).list(VLLMRecommendation.KIND))
    table = table_of(rows, width)
    assert " ".join(str(column.header) for column in table.columns) == columns
    console = Console(width=width, file=io.StringIO(), color_system=None)
    with console.capture() as printed:
        console.print(table)
    lines = printed.get().splitlines()
    assert len(lines) == len(rows) + 2
    assert all(cell_len(line) <= width for line in lines)


def test_colours_only_where_they_are_wanted(cli: Cli, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[33mwaits for new pods\x1b[0m" in cli("list", "--objects", str(objects)).stdout
    head, *_ = cli("list", "--objects", str(objects), "-o", "wide").stdout.splitlines()
    assert head.endswith("  why")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[33m" not in cli("list", "--objects", str(objects)).stdout


@pytest.mark.parametrize(
    ("color", "terminal", "no_color", "hues"),
    [
        ("always", False, True, True),
        ("always", True, False, True),
        ("never", True, False, False),
        ("auto", True, False, True),
        ("auto", True, True, False),
        ("auto", False, False, False),
    ],
)
def test_who_decides_about_colours(
    cli: Cli,
    objects: Path,
    monkeypatch: pytest.MonkeyPatch,
    color: str,
    terminal: bool,
    no_color: bool,
    hues: bool,
) -> None:
    """What is said on the command line, then NO_COLOR, then whether there is a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    for name, wanted in (("FORCE_COLOR", terminal), ("NO_COLOR", no_color)):
        if wanted:
            monkeypatch.setenv(name, "1")
        else:
            monkeypatch.delenv(name, raising=False)
    done = cli("list", "--objects", str(objects), "--color", color)
    assert ("\x1b[33m" in done.stdout) is hues
    assert ("\x1b" in done.stdout) is (hues or (terminal and color != "never"))


def test_a_pipe_bounds_no_line_whatever_the_colours(cli: Cli, objects: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    head, *_ = cli("list", "--objects", str(objects), "--color", "always").stdout.splitlines()
    assert "hit rate" in head


def test_wide_characters_keep_the_columns_in_line(cli: Cli, objects: Path) -> None:
    change(objects, "mistral-7b", lambda raw: raw["status"]["measured"].update(model="千问" * 20))
    change(objects, "llama-3-8b", lambda raw: raw["status"]["measured"].update(model="\N{CJK UNIFIED IDEOGRAPH-5343}"))
    _, *lines = cli("list", "--objects", str(objects)).stdout.splitlines()
    ends = {cell_len(line[: line.index(" GiB")]) for line in lines if "chat/" in line}
    assert len(ends) == 1
    assert all(cell_len(re.split(r"\s{2,}", line)[2]) <= 32 for line in lines if "chat/" in line)


def test_what_pods_call_their_model_does_not_steer_the_terminal(cli: Cli, objects: Path) -> None:
    change(objects, "mistral-7b", lambda raw: raw["status"]["measured"].update(model="\x1b[2J[red]m"))
    done = cli("list", "--objects", str(objects))
    assert "\N{REPLACEMENT CHARACTER}[2J[red]m" in done.stdout
    assert "\x1b" not in done.stdout


def test_workloads_of_the_same_name_are_told_apart(cli: Cli, objects: Path) -> None:
    def other(raw: Any) -> None:
        raw["spec"]["targetRef"].update(kind="Deployment", container="second")
        raw["metadata"]["name"] = "deployment-llama-3-8b-second-00000000"

    change(objects, "llama-3-8b", other)
    done = cli("list", "--objects", str(objects))
    assert "chat/Deployment/llama-3-8b/second  " in done.stdout
    assert "chat/StatefulSet/llama-3-8b/vllm  " in done.stdout
    assert "\nchat/mistral-7b " in done.stdout


def test_objects_that_cannot_be_understood_are_named(cli: Cli, objects: Path) -> None:
    change(objects, "mistral-7b", lambda raw: raw["status"].update(mood="good"))
    done = cli("list", "--objects", str(objects))
    assert done.returncode == 0
    assert "passed over: VLLMRecommendation statefulset-mistral-7b-vllm-d1c1f7e3: status.mood" in done.stderr
    assert "mistral" not in done.stdout
    assert "all 2" in done.stdout


@pytest.mark.parametrize("output", ["table", "wide", "csv"])
def test_nothing_is_no_error(cli: Cli, tmp_path: Path, output: str) -> None:
    done = cli("list", "--objects", str(tmp_path), "-o", output)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no namespace carries the label vllm-rightsizer.io/inject=enabled" in done.stderr


def test_nothing_for_programs(cli: Cli, tmp_path: Path) -> None:
    document = json.loads(cli("list", "--objects", str(tmp_path), "-o", "json").stdout)
    assert document["workloads"] == []
    assert document["total"]["workloads"] == 0
    assert document["total"]["allocatedBytes"] is None


@pytest.mark.parametrize(
    ("namespaces", "asked", "said"),
    [
        (None, None, "nothing is recommended: vLLM pods are measured once their namespace opted in"),
        (None, "chat", "nothing is recommended in namespace chat: .* `kubectl label namespace chat "),
        ([namespace("chat")], None, "no namespace carries the label .*`kubectl label namespace NAME "),
        ([namespace("chat")], "chat", "in namespace chat, which does not carry the label .*label namespace chat "),
        ([namespace("chat")], "chat", r"\(where the scope is OptOut, only for one labelled disabled\), then restart"),
        ([namespace("chat", **{LABEL_INJECT: "disabled"})], "chat", "inject=enabled --overwrite`"),
        ([namespace("chat")], "caht", "there is no namespace caht"),
        ([namespace("chat", **{LABEL_INJECT: "enabled"})], None, "yet in chat: the recommender begins with the first"),
        ([namespace(f"n{i}", **{LABEL_INJECT: "enabled"}) for i in range(9)], None, "n0, n1, n2, n3, n4, …: "),
    ],
)
def test_hints(namespaces: list[dict[str, Any]] | None, asked: str | None, said: str) -> None:
    assert re.search(said, hint_of(namespaces, asked))


@pytest.mark.parametrize("command", [("list",), ("what-if", "--history", "h", "--set", "percentile=95")])
def test_one_namespace_or_all(cli: Cli, objects: Path, command: tuple[str, ...]) -> None:
    done = cli(*command, "--objects", str(objects), "-n", "chat", "-A")
    assert done.returncode == 2
    assert "-n names one namespace, and -A means all" in done.stderr


@pytest.mark.parametrize("wrong", [("--sort", "size"), ("-o", "xml")])
def test_values_that_there_are_not(cli: Cli, objects: Path, wrong: tuple[str, str]) -> None:
    done = cli("list", "--objects", str(objects), *wrong)
    assert done.returncode == 2
    assert wrong[1] in done.stderr


def test_the_name_of_the_plugin_of_kubectl(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Usage: vllm-rightsizer list" in cli("list", "--help").stdout
    monkeypatch.setattr(sys, "argv", ["/usr/bin/kubectl-vllm_rightsizer", "list", "--help"])
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with pytest.raises(SystemExit):
        main()
    assert "Usage: kubectl vllm-rightsizer list" in out.getvalue()
