"""The command line alone, installed from a checkout as docs/commands.md says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.lab.programs import ROOT
from vllm_plugin.names import VERSION

from .checkouts import of_working_tree

pytestmark = pytest.mark.e2e

LOOKS = """
vllm-rightsizer --version
kubectl-vllm_rightsizer list --objects deploy/examples/cluster -o csv
~/.vllm-rightsizer/bin/pip list
"""


def test_the_words_of_the_page(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "commands.md").read_text()
    [words] = re.findall(r"^## Install\n.*?^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    checkout = of_working_tree(tmp_path / "checkout", tmp_path / "home")
    printed = checkout.run("bash", "-euc", f"{words}{LOOKS}")
    assert VERSION in printed
    assert "llama-3-8b" in printed
    # Neither vLLM nor what it runs on comes along.
    assert not re.search(r"^(vllm|torch) ", printed, re.MULTILINE)
