"""Our metrics on vLLM's own page: once, by either way in which vLLM makes it, and never at its cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vllm_plugin import names

from .pages import engine, render, samples, snapshot

ROOT = Path(__file__).parents[3]

SERVER = """
import os, sys, tempfile
several = sys.argv[1] == "several"
if several:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()
if "late" in sys.argv:
    import prometheus_client, prometheus_client.multiprocess

import vllm_plugin
vllm_plugin.register()
vllm_plugin.register()
assert ("prometheus_client" in sys.modules) == ("late" in sys.argv)

from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest, multiprocess
from vllm_plugin import process
from vllm_plugin.guard import hook
from vllm_plugin.override import Outcome

class Pool:
    vllm_config = None
    outcome = Outcome(server="a")
    def alive(self):
        return True
    def report(self):
        if "fails" in sys.argv:
            raise RuntimeError("no figures")
        return {**engine, "capacity_bytes": "many"} if "nonsense" in sys.argv else dict(engine)

import json
engine = json.loads(os.environ["ENGINE"])
process.current().pools.append(Pool())
if "shared" in sys.argv:
    multiprocess.MultiProcessCollector(REGISTRY)
Counter("vllm:requests", "Theirs.").inc(3)

def text():
    registry = REGISTRY
    if several and "shared" not in sys.argv:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry).decode()

if "unwritable" in sys.argv:
    os.environ["VLLM_RIGHTSIZER_DIR"] = "/proc/no/folder"
for _ in range(int(os.environ.get("TIMES", "1"))):
    page = text()
print(json.dumps([page, hook("metrics").errors, hook("metrics").active]))
"""


def served(tmp_path: Path, *how: str, **environment: str) -> tuple[str, int, bool]:
    variables = {"ENGINE": json.dumps(engine()), names.ENV_DIR: str(tmp_path), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(
        [sys.executable, "-c", SERVER, *how],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    text, errors, active = json.loads(done.stdout)
    return text, errors, active


@pytest.mark.parametrize("how", [("one",), ("several",), ("several", "late")])
def test_every_family_stands_there_once(tmp_path: Path, how: tuple[str, ...]) -> None:
    text, errors, _ = served(tmp_path, *how)
    found = samples(text)
    assert found["vllm:requests_total", ()] == 3
    assert errors == 0
    hooks: dict[str, Any] = {}
    mine = samples(render([snapshot(engines=[{**engine(), "info": {}}], hooks=hooks)]))
    skipped = (names.ENGINE_INFO, names.BUILD_INFO, names.HOOK_SECONDS)
    assert {key: value for key, value in mine.items() if key[0] not in skipped}.items() <= found.items()
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    assert {names.ENGINE_INFO, names.BUILD_INFO, names.HOOK_SECONDS, names.HOOKS_ACTIVE} <= set(families)


@pytest.mark.parametrize(("way", "trouble"), [("one", "unwritable"), ("one", "nonsense"), ("several", "nonsense")])
def test_without_ours_the_page_is_as_it_was(tmp_path: Path, way: str, trouble: str) -> None:
    text, errors, active = served(tmp_path, way, trouble, TIMES="7")
    assert (errors, active) == (5, False)
    assert "vllm:requests_total 3.0" in text
    assert names.PREFIX not in text


def test_a_registry_that_shows_both_shows_ours_once(tmp_path: Path) -> None:
    text, _, _ = served(tmp_path, "several", "shared")
    families = [line.split()[2] for line in text.splitlines() if line.startswith(f"# TYPE {names.PREFIX}")]
    assert len(families) == len(set(families)) > 15


def test_an_engine_that_fails_to_report_takes_nothing_with_it(tmp_path: Path) -> None:
    text, errors, _ = served(tmp_path, "one", "fails")
    assert errors == 0
    assert names.BUILD_INFO in text
    assert names.REQUESTS not in text
