"""Every command that README and docs show is run, in the order in which the page shows them.

A page shows commands as ```` ```console ```` blocks, each line that starts with `$ `. All blocks of one page run in one
shell and one folder, so that a later command may use what an earlier one wrote. A block that must be true to the letter
shows its output below the command: it is compared. A command that ends in `&` is a server: it
must still run a while later, and end cleanly when the page is done.

`make` targets that set up or test the project itself would call this test again: for those it is checked that the
target exists and that its recipe can be read. `make demo` is run for real by tests/demo, and so is what a page shows of
the demo's results; `make test` by CI.

Commands in other blocks are not run here: they need a cluster. Each page that has some is named below, with who runs
them. Our own command among them is at least read by our own parser.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import typer

from vllm_rightsizer.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVER_SECONDS = 5.0
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ANY_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = ("vllm-rightsizer", "kubectl", "helm", "curl", "docker", "make", "pip", "python")
NEED_A_CLUSTER = {
    "README.md": "tests/cluster runs the same commands on a real API server",
    "docs/api.md": "tests/unit/recommender/test_http_api.py asks the same paths",
    "docs/doctor.md": "tests/unit/doctor and tests/cluster run the same command",
    "docs/high-availability.md": "kubectl alone",
    "docs/install.md": "tests/cluster/test_install_page.py runs every one",
    "docs/migration.md": "kubectl alone",
    "docs/prometheus.md": "tests/cluster/test_promql_backend.py starts the recommender with it",
    "docs/quick-start.md": "not run whole: it takes a vLLM under load, and half an hour",
    "docs/troubleshooting.md": "kubectl on what is broken",
    "docs/webhook.md": "kubectl alone",
    "docs/runbooks": "kubectl on what is broken",
}


def _steps(page: Path) -> list[tuple[str, str]]:
    """Each command of the page with the output that the page shows for it (often none)."""
    steps: list[tuple[str, str]] = []
    for block in BLOCK.findall(page.read_text()):
        command, output = "", ""
        for line in block.splitlines(keepends=True):
            if line.startswith("$ ") or command.endswith("\\\n"):
                if line.startswith("$ ") and command:
                    steps.append((command, output))
                    command, output = "", ""
                command += line.removeprefix("$ ") if line.startswith("$ ") else line.removeprefix("> ")
            else:
                output += line
        assert command, f"{page.name}: a console block without a command:\n{block}"
        steps.append((command, output))
    return steps


def _run(command: str, folder: Path, environment: dict[str, str], background: list[subprocess.Popen[bytes]]) -> str:
    if command.rstrip().endswith("&"):
        background.append(
            subprocess.Popen(
                ["bash", "-c", "exec " + command.rstrip().removesuffix("&")],
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        )
        return ""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command.strip()}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_run_as_shown(page: Path, tmp_path: Path) -> None:
    if (ROOT / "deploy" / "examples").is_dir():
        shutil.copytree(ROOT / "deploy" / "examples", tmp_path / "deploy" / "examples")
    environment = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "COLUMNS": "120"}
    background: list[subprocess.Popen[bytes]] = []
    try:
        for command, shown in _steps(page):
            if "build/demo/" in command:
                continue
            if command.startswith("make "):
                subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, check=True)
                continue
            output = _run(command, tmp_path, environment, background)
            if shown.strip():
                assert shown.strip() == output.strip(), command
        if background:
            time.sleep(SERVER_SECONDS)
        for process in background:
            assert process.poll() is None, f"{process.args} ended by itself"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0, process.args
    finally:
        for process in background:
            if process.poll() is None:
                process.kill()
                process.wait()


def _left_out(page: Path) -> list[str]:
    """The commands of the page that are not run here, each in one line."""
    blocks = [block for kind, block in ANY_BLOCK.findall(page.read_text()) if kind in ("", "sh", "shell")]
    return [line for line in "".join(blocks).replace("\\\n", " ").splitlines() if line.startswith(PROGRAMS)]


def test_commands_that_are_not_run_are_known() -> None:
    pages = [page.relative_to(ROOT) for page in PAGES if _left_out(page)]
    runbooks = Path("docs/runbooks")
    assert {str(runbooks if page.parent == runbooks else page) for page in pages} == NEED_A_CLUSTER.keys()


def test_our_command_knows_what_pages_give_it() -> None:
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    read = 0
    for page in PAGES:
        for line in _left_out(page):
            # In our image there is the module, and no program of its name.
            found = re.search(r"^vllm-rightsizer (.*)|^kubectl .* exec .* -- +python3 -m vllm_rightsizer (.*)", line)
            assert found or not re.search(r" -- +vllm-rightsizer ", line), line
            if found is not None:
                name, *options = shlex.split(found[1] or found[2], comments=True)
                with program.commands[name].make_context(name, options):
                    read += 1
    assert read >= 6


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


def test_readme_has_both_commands_and_they_are_found() -> None:
    commands = [command.strip() for command, _ in _steps(ROOT / "README.md")]
    assert "make demo" in commands
    assert "make test" in commands
