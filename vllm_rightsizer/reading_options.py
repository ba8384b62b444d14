"""Options that several of the reading commands share, and the values that they take. Light: `--help` brings this in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Objects = Annotated[
    Path | None, typer.Option(help="Folder in which the objects lie; without it, they are read from the API server.")
]
OwnKubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="How the API server is reached; without it, as kubectl does, or as a pod."),
]
Context = Annotated[str | None, typer.Option(help="Of the kubeconfig; without it, the current one.")]
SomeNamespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Only there; without it, all.")]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="All namespaces, as without -n.")]


class Output(StrEnum):
    """What explains and compares is text for people, or a document for programs."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


class ListOutput(StrEnum):
    """`wide` has every column, however narrow the terminal."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


class SortColumn(StrEnum):
    """What rows can be sorted by."""

    WORKLOAD = "workload"
    REPLICAS = "replicas"
    MODEL = "model"
    ALLOCATED = "allocated"
    USED = "used"
    RECOMMENDED = "recommended"
    SAVING = "saving"
    HIT_RATE = "hit-rate"
    STATE = "state"
