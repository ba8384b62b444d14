"""promtool runs the tests of rules and alerts that stand beside this file, and reads each file as Prometheus would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.lab.programs import ROOT, folder_with

pytestmark = pytest.mark.e2e

RULES = sorted(
    file
    for file in (ROOT / "deploy" / "prometheus").glob("*.yaml")
    if file.name in {"alerts.yaml", "recording-rules.yaml"}
)


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = folder_with("promtool") / "promtool"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["rules", "thresholds"])
def test_the_rules_record_and_alert_as_they_should(name: str) -> None:
    done = promtool("test", "rules", Path(__file__).with_name(f"{name}.yaml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_files() -> None:
    assert len(RULES) == 2
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", *RULES)
    assert done.returncode == 0, done.stdout + done.stderr
