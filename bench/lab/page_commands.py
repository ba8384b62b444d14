"""The commands of the documentation that need a cluster, as a reader copies them, and which test runs them.

What a page shows in ```` ```console ```` runs on any machine: tests/docs runs that. In blocks of ```` ```sh ````, or
without a kind, stands what is for a cluster; so does what kubectl is to do in the middle of a sentence.
"""

from __future__ import annotations

import re

from bench.lab.programs import ROOT

PROGRAMS = ("vllm-rightsizer", "kubectl", "helm", "curl", "docker", "make", "pip", "python")

_STORY = "tests/lab/test_quick_start_sizes.py"
_SINGLY = "tests/lab/test_commands_on_lab.py"
RUN_BY = {
    "README.md": _SINGLY,
    "docs/api.md": _SINGLY,
    "docs/commands.md": _SINGLY,
    "docs/doctor.md": _SINGLY,
    "docs/gitops.md": _SINGLY,
    "docs/high-availability.md": _SINGLY,
    "docs/install.md": "tests/cluster/test_install_page.py",
    "docs/migration.md": _SINGLY,
    "docs/policies.md": _SINGLY,
    "docs/prometheus.md": _SINGLY,
    "docs/quick-start.md": _STORY,
    "docs/runbooks": _SINGLY,
    "docs/troubleshooting.md": _SINGLY,
    "docs/webhook.md": _SINGLY,
}
"""Pages, or folders of them, and the test that runs what they show."""

NOT_RUN = {
    (
        "docs/prometheus.md",
        "vllm-rightsizer recommender --history /tmp/history.db --prometheus http://prometheus.monitoring:9090",
    ): "the lab has no Prometheus; tests/cluster/test_promql_backend.py starts it with the address of a real one",
    (
        "docs/runbooks/VLLMRightsizerCertificateExpires.md",
        "kubectl -n vllm-rightsizer delete secret vllm-rightsizer-webhook-tls",
    ): "the tests that follow would wait for new certificates; docs/install.md has it as well",
}
"""Commands that no test runs as they stand, and why."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_IN_A_SENTENCE = re.compile(r"`(kubectl\s[^`…]+)`")
_WHOLE_WITH_A_KIND = ("describe", "edit", "explain", "get", "vllm-rightsizer")
_CONTINUED = ("\\", "|", "&&")


def pages_of(test: str) -> list[str]:
    """The pages whose commands that test runs; of a folder, each."""
    found: list[str] = []
    for place in (place for place, runner in RUN_BY.items() if runner == test):
        path = ROOT / place
        found += [str(page.relative_to(ROOT)) for page in sorted(path.glob("*.md"))] if path.is_dir() else [place]
    return found


def blocks(page: str) -> list[str]:
    """The blocks of commands for a cluster that the page (its path in the repository) shows."""
    return blocks_of((ROOT / page).read_text())


def blocks_of(text: str) -> list[str]:
    """The same of a text, such as one section."""
    found = [block for kind, block in _BLOCK.findall(text) if kind in ("", "sh", "shell")]
    return [block for block in found if any(line.startswith(PROGRAMS) for line in block.splitlines())]


def commands(page: str) -> list[str]:
    """Each command of these blocks: with the lines that continue it, all of a pipeline, its here-document."""
    return [command for block in blocks(page) for command in commands_of(block)]


def commands_in_sentences(page: str) -> list[str]:
    """What kubectl is told to do outside of blocks, where that is a whole command and not only the name of one."""
    said = [found.split() for found in _IN_A_SENTENCE.findall(_BLOCK.sub("", (ROOT / page).read_text()))]
    return [" ".join(words) for words in said if len(words) > (2 if words[1] in _WHOLE_WITH_A_KIND else 3)]


def commands_of(block: str) -> list[str]:
    """The commands of one block."""
    found: list[str] = []
    lines: list[str] = []
    ends_with = ""
    for line in block.splitlines():
        if not lines and (not line.strip() or line.startswith("#")):
            continue
        lines.append(line)
        if opened := re.search(r"<<(\w+)$", line):
            ends_with = opened[1]
        if (ends_with and line != ends_with) or line.endswith(_CONTINUED):
            continue
        found.append("\n".join(lines))
        lines, ends_with = [], ""
    return found
