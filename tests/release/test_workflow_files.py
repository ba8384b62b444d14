"""What runs on GitHub, and the scripts it shares with everybody: as good as their checkers can tell without running."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.programs import ROOT, folder_with

from .tools import SHELLCHECK, tool

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
RELEASE = ROOT / ".github" / "workflows" / "release.yml"
HOSTS = re.compile(
    r"\b(ghcr|quay|docker|gcr|nvcr|public\.ecr|mcr|cgr)\.(io|aws|dev|microsoft\.com)\b|\bregistry\.k8s\.io\b"
    r"|\b(registry\.(npmjs|yarnpkg)|proxy\.golang|sum\.golang|files\.pythonhosted|deb\.debian)\.(org|com)\b"
    r"|\bpypi\.org/simple\b"
)
Raw = dict[str, Any]


def read(file: Path) -> Raw:
    found: Raw = YAML(typ="safe", pure=True).load(file)
    return found


def steps(file: Path) -> Iterator[Raw]:
    for job in read(file)["jobs"].values():
        yield from job.get("steps", ())


def tracked() -> list[Path]:
    listed = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_scripts_pass_shellcheck() -> None:
    scripts = [file for file in tracked() if file.read_bytes()[:32].startswith((b"#!/usr/bin/env bash", b"#!/bin/"))]
    assert ROOT / ".ci" / "release" in scripts
    assert ROOT / "deploy" / "images" / "build" in scripts
    done = tool(SHELLCHECK, "shellcheck", *map(str, scripts))
    assert done.returncode == 0, done.stdout


@pytest.mark.e2e
def test_workflows_pass_actionlint() -> None:
    """Which gives their scripts to shellcheck."""
    folder = folder_with("actionlint")
    found = tool(SHELLCHECK, "python", "-c", "import shutil; print(shutil.which('shellcheck'))").stdout.strip()
    assert found, "no shellcheck"
    command = [folder / "actionlint", "-shellcheck", found, *WORKFLOWS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_by_their_commits() -> None:
    used = [step["uses"] for file in WORKFLOWS for step in steps(file) if "uses" in step]
    assert len(used) > 8
    assert [name for name in used if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", name)] == []
    for file in WORKFLOWS:
        lines = [line for line in file.read_text().splitlines() if "uses:" in line and "uses: ./" not in line]
        assert [line for line in lines if not re.search(r"@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)] == []


def test_jobs_may_no_more_than_they_need() -> None:
    allowed = {
        "test": {},
        "build": {},
        "push": {"contents": "read", "packages": "write"},
        "publish": {"contents": "write", "attestations": "write", "id-token": "write"},
    }
    for file in WORKFLOWS:
        assert read(file)["permissions"] == {"contents": "read"}
    assert {name: job.get("permissions", {}) for name, job in read(RELEASE)["jobs"].items()} == allowed
    # Without this the token would stay in the checkout's configuration.
    checkouts = [step for file in WORKFLOWS for step in steps(file) if "/checkout@" in step.get("uses", "")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False] * len(checkouts)


def test_a_release_is_of_a_tag_alone_and_one_at_a_time() -> None:
    workflow = read(RELEASE)
    # YAML 1.1 reads the word as a truth value.
    assert workflow.get("on", workflow.get(True)) == {"push": {"tags": ["v*"]}}
    assert workflow["concurrency"] == {"group": "release", "cancel-in-progress": False}


def test_what_is_released_passed_ci_before() -> None:
    jobs = read(RELEASE)["jobs"]
    assert jobs["test"] == {"uses": "./.github/workflows/ci.yml"}
    assert {name: job.get("needs") for name, job in jobs.items()} == {
        "test": None,
        "build": None,
        "push": ["test", "build"],
        "publish": "push",
    }
    ci = read(ROOT / ".github" / "workflows" / "ci.yml")
    assert "workflow_call" in ci.get("on", ci.get(True))
    # Called from a release it is in a group of its own: the main branch's run of the same commit goes on.
    assert ci["concurrency"]["group"].startswith("${{ github.workflow }}-")


def test_workflows_run_targets_that_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = re.findall(r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps(RELEASE)))
    assert wanted == ["release", "push-images", "push-chart"]
    assert [name for name in wanted if not re.search(rf"(?m)^{name}:", makefile)] == []


def test_pushing_asks_whereto() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "REPOSITORY"} | {"BUILDER": "docker"}
    for target in ("push-images", "push-chart"):
        command = ["make", target]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert "REPOSITORY=registry.example.com/team" in done.stdout + done.stderr


def test_the_release_says_that_no_registry_is_named() -> None:
    [step] = [step for step in steps(RELEASE) if step.get("name") == "A registry is named"]
    command = ["bash", "-e", "-c", step["run"]]
    done = subprocess.run(command, env={"REPOSITORY": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("::error::Set the variable IMAGE_REPOSITORY")
    assert subprocess.run(command, env={"REPOSITORY": "registry.example.com/team"}, check=False).returncode == 0


def test_no_file_names_a_registry() -> None:
    """Images and packages come from where their user says; those of others stand in examples and tests without one."""
    found = {str(file.relative_to(ROOT)): HOSTS.search(file.read_text(errors="replace")) for file in tracked()}
    assert len(found) > 600
    assert {name: match[0] for name, match in found.items() if match} == {}
