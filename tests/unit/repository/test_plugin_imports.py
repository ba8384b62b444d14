"""The plugin runs inside users' images: it may import the standard library, itself, and nothing else.

vLLM's own objects are handed to its hooks by vLLM; what it needs beyond them it finds among the loaded modules.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[3] / "vllm_plugin"


def imported(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(PLUGIN.rglob("*.py")), ids=lambda path: str(path.relative_to(PLUGIN)))
def test_standard_library_only(path: Path) -> None:
    assert imported(path.read_text()) - {"vllm_plugin"} <= sys.stdlib_module_names


def test_the_check_sees_imports() -> None:
    assert imported("import numpy.linalg\ndef f():\n    from torch import nn\n") == {"numpy", "torch"}
