"""Options of `vllm-rightsizer doctor`. Light: `--help` brings this in."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Diagnosis(StrEnum):
    """Text for people, or a document for programs."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


Home = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Of webhook and recommender; without it, the webhook's own.")
]
DiagnosisOutput = Annotated[Diagnosis, typer.Option("--output", "-o", help="What to print.")]
Bundle = Annotated[
    Path | None, typer.Option(help="Write a tar.gz for whoever is to help: objects, events, logs; no secrets.")
]
