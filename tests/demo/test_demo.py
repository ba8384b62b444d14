"""The whole loop on a real vLLM, as a user runs it: what it shows, what it writes, and what it leaves behind."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from processes import descendants, still_there
from rich.console import Console

from recommender.api.recommendations import Measured, VLLMRecommendation
from recommender.api.sizing_flags import KV_CACHE_MEMORY_BYTES
from vllm_rightsizer.demo import pattern
from vllm_rightsizer.demo.model import BLOCK_BYTES, BLOCK_TOKENS, MAX_MODEL_LEN, words
from vllm_rightsizer.demo.pattern import Request
from vllm_rightsizer.demo.run import reporting, target_of
from vllm_rightsizer.demo.stage import Stage

pytestmark = pytest.mark.demo

GIB = 1 << 30
PATIENCE_SECONDS = 1200
SEED = 1
README = Path(__file__).parents[2] / "README.md"


@dataclass(frozen=True)
class Run:
    """One run of `vllm-rightsizer demo`."""

    output: Path
    exit_code: int
    printed: str
    errors: str
    left_behind: dict[int, str]

    @property
    def figures(self) -> dict[str, Any]:
        return dict(json.loads((self.output / "demo.json").read_text()))

    def measured(self) -> Measured:
        (path,) = (self.output / "demo" / "objects" / "vllmrecommendation").glob("*/*.json")
        measured = VLLMRecommendation.from_json(json.loads(path.read_text())).status.measured
        assert measured is not None
        return measured


def start_demo(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "vllm_rightsizer", "demo", "--output", output.name, "--seed", str(SEED)],
        cwd=output.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen_until(program: subprocess.Popen[str], command: str) -> dict[int, str]:
    """Everything that `program` runs once a process whose command line has `command` in it is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        running = descendants(program.pid)
        if any(command in line for line in running.values()):
            return running
        assert program.poll() is None, program.communicate()
        time.sleep(0.2)
    program.terminate()
    raise AssertionError(f"{command} was not started: {program.communicate()}")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("build")
    # What an earlier run may have left.
    (output / "demo" / "objects" / "pod" / "demo").mkdir(parents=True)
    (output / "demo" / "objects" / "pod" / "demo" / "stale.json").write_text("{}")
    (output / "demo" / ".vllm-rightsizer-demo").touch()
    program = start_demo(output)
    running = seen_until(program, "VLLM::Worker")
    printed, errors = program.communicate(timeout=PATIENCE_SECONDS)
    return Run(output, program.returncode, printed, errors, still_there(running))


def test_every_check_passes(demo: Run) -> None:
    assert demo.exit_code == 0, demo.printed + demo.errors
    assert "✗" not in demo.printed
    assert demo.printed.count("✓") == 8


def test_nothing_is_left_running(demo: Run) -> None:
    assert demo.left_behind == {}


def test_the_fields_are_those_that_were_promised(demo: Run) -> None:
    figures = demo.figures
    assert set(figures) == {
        "before",
        "after",
        "predicted_hit_rate",
        "recommended_kv_bytes",
        "reclaimed_bytes",
        "reclaimed_share",
        "seconds",
    }
    for run in ("before", "after"):
        assert set(figures[run]) == {
            "kv_pool_blocks",
            "kv_pool_bytes",
            "hit_rate",
            "preemptions",
            "requests_per_second",
        }
    assert figures["seconds"] > 0


def test_the_pool_was_generous(demo: Run) -> None:
    before = demo.figures["before"]
    assert GIB <= before["kv_pool_bytes"] <= 2.6 * GIB
    tokens = sum(len(text.split()) for text in map(text_of, pattern.generate(pattern.DEMO, SEED)))
    assert tokens >= 1.5 * before["kv_pool_blocks"] * BLOCK_TOKENS


def test_the_second_pool_is_the_recommended_one_exactly(demo: Run) -> None:
    figures = demo.figures
    assert figures["after"]["kv_pool_bytes"] == figures["recommended_kv_bytes"]
    assert figures["after"]["kv_pool_blocks"] * BLOCK_BYTES == figures["recommended_kv_bytes"]
    assert demo.measured().kv_capacity_bytes == figures["recommended_kv_bytes"]


def test_the_right_size_lies_between_the_floor_and_60_percent(demo: Run) -> None:
    figures = demo.figures
    floor = (MAX_MODEL_LEN // BLOCK_TOKENS + 1) * BLOCK_BYTES
    assert demo.measured().kv_floor_bytes == floor
    assert floor < figures["recommended_kv_bytes"] <= 0.6 * figures["before"]["kv_pool_bytes"]


def test_the_hit_rate_stays_and_was_predicted(demo: Run) -> None:
    figures = demo.figures
    assert figures["after"]["hit_rate"] == pytest.approx(figures["before"]["hit_rate"], abs=0.010)
    assert figures["after"]["hit_rate"] == pytest.approx(figures["predicted_hit_rate"], abs=0.005)


def test_nothing_was_preempted_and_much_is_given_back(demo: Run) -> None:
    figures = demo.figures
    assert figures["before"]["preemptions"] == figures["after"]["preemptions"] == 0
    given_back = figures["before"]["kv_pool_bytes"] - figures["after"]["kv_pool_bytes"]
    assert figures["reclaimed_bytes"] == given_back
    assert figures["reclaimed_share"] == pytest.approx(given_back / figures["before"]["kv_pool_bytes"])
    assert figures["reclaimed_share"] >= 0.40


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("explain", ("hitRate", "floor", "demand", "coverage")),
        ("what-if", ("own pool", "demo/", "hitRate")),
    ],
)
def test_readme_shows_what_the_demo_left(demo: Run, command: str, said: tuple[str, ...]) -> None:
    """The command as README shows it, from the folder in which the demo was run."""
    shown = re.findall(rf"^\$ (vllm-rightsizer {command} .*build/demo/.*)$", README.read_text(), re.MULTILINE)
    assert len(shown) == 1
    program = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-c", f"{program}/{shown[0].replace('build/', f'{demo.output.name}/')}"],
        cwd=demo.output.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [each for each in said if each not in done.stdout] == []


def test_the_picture_is_there(demo: Run) -> None:
    texts = [element.text for element in ElementTree.parse(demo.output / "demo.svg").iter() if element.text]
    for words_in_it in ("recommended", "today", "p99 of usage", "prefix-cache hit rate"):
        assert any(words_in_it in text for text in texts)


def test_a_pool_cut_to_what_is_in_use_loses_the_cache(demo: Run, tmp_path: Path) -> None:
    """The largest use is no less than its p99: who sizes by usage would choose this pool or a smaller one.

    By the 300th request a generous cache is warm enough for more than three quarters of the hits that it ends with.
    """
    measured = demo.measured()
    usage = max(measured.kv_floor_bytes, measured.kv_active_peak_bytes)
    with Stage(tmp_path, Console(quiet=True), [f"{KV_CACHE_MEMORY_BYTES}={usage}"]) as stage:
        stage.start_pod(stage.admit())
        cut = stage.measure(pattern.generate(pattern.DEMO, SEED)[:300])
    assert cut.pool_bytes == usage
    assert cut.hit_rate < demo.figures["before"]["hit_rate"] / 2


def test_a_working_set_as_large_as_the_pool_is_left_its_pool(tmp_path: Path) -> None:
    """Documents that fill the pool, each as likely as the other: whatever is taken away is missed."""
    document_blocks, documents = 31, 60
    # Beside the documents, room for the questions that are under way.
    pool_blocks = documents * document_blocks + 20
    rng = random.Random(SEED)
    vocabulary = words()
    texts = [" ".join(rng.choices(vocabulary, k=document_blocks * BLOCK_TOKENS)) for _ in range(documents)]
    requests = [
        Request("document", prompt=f"{rng.choice(texts)} {' '.join(rng.choices(vocabulary, k=24))}")
        for _ in range(1100)
    ]
    with Stage(tmp_path, Console(quiet=True), [f"{KV_CACHE_MEMORY_BYTES}={pool_blocks * BLOCK_BYTES}"]) as stage:
        stage.start_pod(stage.admit())
        stage.wait_for(lambda: reporting(stage.recommendation()), "the plugin")
        measured = stage.measure(requests)
        target, _ = stage.wait_for(lambda: target_of(stage.recommendation(), len(requests)), "a recommendation")
    assert measured.pool_blocks == pool_blocks
    assert measured.usage_p99 < 0.25
    assert target.kv_blocks == pool_blocks


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    program = start_demo(tmp_path / "build")
    running = seen_until(program, "VLLM::EngineCore")
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=PATIENCE_SECONDS)
    assert program.returncode == 128 + signal.SIGINT
    assert errors == "vllm-rightsizer: stopped by SIGINT; nothing is left running\n"
    assert still_there(running) == {}


def text_of(request: Request) -> str:
    return request.prompt or " ".join(content for _, content in request.messages)
