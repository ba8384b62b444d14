"""Options that several commands share, most of all those that read, and the values that they take. Light: `--help`
brings this in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recommender.api.scopes import Scope
from vllm_rightsizer import completions

Objects = Annotated[
    Path | None, typer.Option(help="Folder in which the objects lie; without it, they are read from the API server.")
]
OwnKubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="How the API server is reached; without it, as kubectl does, or as a pod."),
]
Context = Annotated[
    str | None,
    typer.Option(help="Of the kubeconfig; without it, the current one.", autocompletion=completions.contexts),
]
SomeNamespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Only there; without it, all.", autocompletion=completions.namespaces),
]
OwnNamespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", help="Its namespace; without it, the context's.", autocompletion=completions.namespaces
    ),
]
_WORKLOAD_HELP = "NAME, KIND/NAME or KIND/NAME/CONTAINER of a workload, or NAME of its VLLMRecommendation"
Workload = Annotated[
    str, typer.Argument(help=f"{_WORKLOAD_HELP}.", metavar="WORKLOAD", autocompletion=completions.workloads)
]
SomeWorkload = Annotated[
    str | None,
    typer.Argument(
        help=f"{_WORKLOAD_HELP}; without it, all.", metavar="[WORKLOAD]", autocompletion=completions.workloads
    ),
]
PriceFile = Annotated[
    Path | None, typer.Option("--prices", help="Your prices of GPUs, YAML or JSON; without it, a dated table.")
]
OpenCostUrl = Annotated[
    str | None,
    typer.Option("--opencost", help="URL of OpenCost's API, which prices what your own prices do not name."),
]
ScopeOfPods = Annotated[
    Scope, typer.Option(help="Namespaces that count: those that say so, or all but those that say no.")
]
SomeScope = Annotated[
    Scope | None,
    typer.Option(
        "--scope",
        help="Namespaces that count: those that say so, or all but those that say no; without it, as the webhook's "
        "configuration has it.",
    ),
]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces, as without -n.")]


class Output(StrEnum):
    """For people a table, `wide` with all that there is, however narrow the terminal; the others for programs."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"

    @property
    def is_table(self) -> bool:
        return self in (Output.TABLE, Output.WIDE)


class Color(StrEnum):
    """When text for people has colours; `auto`: on a terminal, unless NO_COLOR is set."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="What to print.")]
ColorOption = Annotated[Color, typer.Option("--color", help="Colours; auto: on a terminal, unless NO_COLOR is set.")]


class SortColumn(StrEnum):
    """What rows can be sorted by."""

    WORKLOAD = "workload"
    REPLICAS = "replicas"
    MODEL = "model"
    POLICY = "policy"
    ALLOCATED = "allocated"
    USED = "used"
    RECOMMENDED = "recommended"
    SAVING = "saving"
    HIT_RATE = "hit-rate"
    STATE = "state"
