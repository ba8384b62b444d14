"""Every command that README and docs show is run, in the order in which the page shows them.

A page shows commands as ```` ```console ```` blocks, each line that starts with `$ `. All blocks of one page run in one
shell and one folder, so that a later command may use what an earlier one wrote. A block that must be true to the letter
shows its output below the command: it is compared. A command that ends in `&` is a server: it
must still run a while later, and end cleanly when the page is done.

`make` targets that set up or test the project itself would call this test again: for those it is checked that the
target exists and that its recipe can be read. `make demo` is run for real by tests/demo, and so is what a page shows of
the demo's results; `make test` by CI.

Commands in other blocks need a cluster. Which test runs those of a page is said in bench/lab/page_commands.py, and what
no test runs. Our own command among them is read by our own parser here.
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

from bench.lab.page_commands import NOT_RUN, RUN_BY, commands, commands_in_sentences, commands_of, pages_of
from vllm_rightsizer.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVER_SECONDS = 5.0
LONGEST_SECONDS = 120.0
"""For a server to start and to end, where nothing is compiled yet and tests run beside it."""
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MOST_NOT_RUN = 3
SAID_BY_KUBERNETES = {"forbidden"}


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
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{command.strip()}\nexit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _await_started(server: subprocess.Popen[bytes]) -> None:
    """Until it has taken over what happens at SIGTERM: before, the signal would end it like any other program."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        assert server.poll() is None, f"{server.args} ended by itself"
        status = Path(f"/proc/{server.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)$", status, re.MULTILINE)
        if caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        assert time.monotonic() < deadline, f"{server.args} has not started"
        time.sleep(0.1)


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
        for process in background:
            _await_started(process)
        if background:
            time.sleep(SERVER_SECONDS)
        for process in background:
            assert process.poll() is None, f"{process.args} ended by itself"
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=LONGEST_SECONDS) == 0, process.args
    finally:
        for process in background:
            if process.poll() is None:
                process.kill()
                process.wait()


def _for_a_cluster(page: Path) -> list[str]:
    """The commands of the page that are not run here, in blocks and in sentences."""
    name = str(page.relative_to(ROOT))
    return [*commands(name), *commands_in_sentences(name)]


def test_a_test_runs_what_needs_a_cluster() -> None:
    pages = {str(page.relative_to(ROOT)) for page in PAGES if _for_a_cluster(page)}
    covered = [page for test in set(RUN_BY.values()) for page in pages_of(test)]
    assert sorted(pages - set(covered)) == []
    for place, test in RUN_BY.items():
        assert any(_for_a_cluster(ROOT / page) for page in covered if page.startswith(place)), (
            f"{place} has no commands"
        )
        assert (ROOT / test).is_file()


def test_what_no_test_runs_is_little_and_shown() -> None:
    assert len(NOT_RUN) <= MOST_NOT_RUN
    for (page, command), why in NOT_RUN.items():
        assert command in _for_a_cluster(ROOT / page)
        for test in re.findall(r"tests/[\w/]+\.py", why):
            assert (ROOT / test).is_file()


def test_what_pages_look_for_in_logs_is_said_by_us() -> None:
    """On a cluster where all is well nothing is found, whatever is looked for."""
    sources = [file for place in ("recommender", "webhook") for file in (ROOT / place).rglob("*.py")]
    said = "\n".join(file.read_text() for file in sources)
    looked_for = {
        words
        for page in PAGES
        for command in _for_a_cluster(page)
        for pattern in re.findall(r" logs .*\| grep (?:-\w+ )?'([^']+)'", command)
        for words in re.findall(r"[a-z][a-z -]+[a-z]", pattern)
    }
    assert len(looked_for) > 5
    assert {words for words in looked_for if words not in said} <= SAID_BY_KUBERNETES


@pytest.mark.parametrize(
    ("block", "found"),
    [
        ("kubectl get a |\n  grep b\nhelm list\n", ["kubectl get a |\n  grep b", "helm list"]),
        ("# why\nkubectl get \\\n  a\n", ["kubectl get \\\n  a"]),
        ("kubectl apply -f - <<EOF\na: b\n\nEOF\nhelm list\n", ["kubectl apply -f - <<EOF\na: b\n\nEOF", "helm list"]),
    ],
)
def test_commands_are_found_whole(block: str, found: list[str]) -> None:
    assert commands_of(block) == found


def test_our_command_knows_what_pages_give_it() -> None:
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    read = 0
    for page in PAGES:
        for command in _for_a_cluster(page):
            line = re.sub(r"\\\n *", "", command)
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
