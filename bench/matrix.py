"""The plugin on every vLLM release that can be had: the same tests in an environment for each, and a table of them all.

    $ python -m bench.matrix [RELEASE ...]

One environment at a time, removed after. A release that fails does not stop the others; the exit status says whether
one did. What is known of each release is kept in `bench/results/matrix.jsonl`, and shown in `docs/compatibility.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.matrix_page import page
from bench.release_environments import (
    RELEASES,
    Environment,
    NotBuiltError,
    NotToBeHadError,
    build,
    clean_environ,
)
from vllm_rightsizer.demo.model import model_folder, write_model

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "conformance"
RESULTS = ROOT / "bench" / "results" / "matrix.jsonl"
PAGE = ROOT / "docs" / "compatibility.md"
_TIMEOUT_SECONDS = 1500


@dataclass(frozen=True)
class Result:
    """What became of one release."""

    release: str
    date: str
    runs_models: bool = False
    passed: int = 0
    failed: tuple[str, ...] = ()
    hooks: dict[str, list[str]] = field(default_factory=dict)
    """By engine: the hooks that were active."""
    seconds: dict[str, float] = field(default_factory=dict)
    error: str = ""
    to_be_had: bool = True
    """False where no registry has its packages, or this machine no room for them."""

    @property
    def ok(self) -> bool:
        """Everything ran, and everything passed."""
        return not self.error and not self.failed and self.passed > 0


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description="Try the plugin on vLLM releases.")
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help="such as 0.13.0; all by default")
    wanted = tuple(parser.parse_args().releases) or RELEASES
    unknown = [release for release in wanted if release not in RELEASES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. Known: {', '.join(RELEASES)}")
    console = Console()
    results = []
    for release in wanted:
        console.print(f"[bold]vLLM {release}[/bold]")
        results.append(tried(release))
        console.print(f"  {summary(results[-1])}")
        keep(results[-1])
    console.print(table(results))
    sys.exit(not all(result.ok for result in results))


def tried(release: str) -> Result:
    """Build, test, remove."""
    began = time.monotonic()
    today = time.strftime("%Y-%m-%d", time.gmtime())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-rightsizer" / "matrix"
    uv = subprocess.run([str(ROOT / ".ci" / "uv")], capture_output=True, text=True, check=True).stdout.strip()
    folder = cache / release
    try:
        environment = build(release, uv, folder)
        return tested(environment, today, install_seconds=round(time.monotonic() - began, 1))
    except NotBuiltError as error:
        return Result(release, today, error=str(error), to_be_had=not isinstance(error, NotToBeHadError))
    finally:
        # What was downloaded stays in uv's cache.
        shutil.rmtree(folder, ignore_errors=True)


def tested(environment: Environment, today: str, install_seconds: float) -> Result:
    """Run the release tests inside the environment."""
    began = time.monotonic()
    model = model_folder()
    if not model.is_dir():
        write_model(model)
    report = environment.folder / "report.xml"
    command = [str(environment.python), "-m", "pytest", "--quiet", "-c", str(TESTS / "pytest.ini")]
    command += [f"--rootdir={TESTS}", f"--confcutdir={TESTS}", f"--junitxml={report}", str(TESTS)]
    environ = {
        **clean_environ(),
        "PYTHONPATH": os.pathsep.join(map(str, environment.path)),
        "CONFORMANCE_MODEL": str(model),
        "CONFORMANCE_RUNS_MODELS": "1" if environment.runs_models else "",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # One process compiles, the many others read.
        "PYTHONPYCACHEPREFIX": str(environment.folder / "bytecode"),
        # Otherwise a thread for each core of each process.
        "OMP_NUM_THREADS": "1",
    }
    log = environment.folder / "log"
    error = ""
    try:
        with log.open("wb") as output:
            subprocess.run(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                # Python finds what lies in its working directory: the project's own plugin must not be there.
                cwd=environment.folder,
                check=False,
                timeout=_TIMEOUT_SECONDS,
            )
    except subprocess.TimeoutExpired:
        error = f"not done after {_TIMEOUT_SECONDS} s"
    if not report.is_file():
        error = error or "the tests did not run"
    if error:
        error += ":\n" + log.read_text(errors="replace")[-3000:]
    passed, failed, hooks = outcomes(report) if report.is_file() else (0, {}, {})
    for name, message in failed.items():
        print(f"  {name}\n{message}", file=sys.stderr)
    return Result(
        environment.release,
        today,
        environment.runs_models,
        passed,
        tuple(failed),
        hooks,
        {"install": install_seconds, "tests": round(time.monotonic() - began, 1)},
        error,
    )


def outcomes(report: Path) -> tuple[int, dict[str, str], dict[str, list[str]]]:
    """How many tests passed, which failed and how, and the hooks that were active, by engine."""
    passed = 0
    failed: dict[str, str] = {}
    hooks: dict[str, list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        broken = [*case.iter("failure"), *case.iter("error")]
        if broken:
            failed[str(case.get("name"))] = str(broken[0].text)[-2500:]
        elif case.find("skipped") is None:
            passed += 1
        for one in case.iter("property"):
            if str(one.get("name")).startswith("hooks "):
                hooks[str(one.get("name")).removeprefix("hooks ")] = str(one.get("value")).split()
    return passed, failed, hooks


def summary(result: Result) -> str:
    """One line."""
    if result.error:
        return f"[red]failed[/red]: {result.error}"
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items())
    color = "green" if result.ok else "red"
    return f"[{color}]{result.passed} passed, {len(result.failed)} failed[/{color}] ({times})"


def table(results: list[Result]) -> Table:
    """All of them, for the terminal."""
    shown = Table("vLLM", "engines", "with a model", "passed", "failed", "seconds")
    for one in results:
        failed = one.error.splitlines()[0] if one.error else ", ".join(one.failed)
        engines = " ".join(name for name in one.hooks if name != "model")
        ran = "yes" if "model" in one.hooks else "no"
        shown.add_row(one.release, engines, ran, str(one.passed), failed, f"{sum(one.seconds.values()):.0f}")
    return shown


def keep(result: Result) -> None:
    """Replace what was known of this release, and show it."""
    known = {}
    if RESULTS.is_file():
        known = {row["release"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
    known[result.release] = {name: value for name, value in asdict(result).items() if name != "to_be_had"}
    rows = [known[release] for release in RELEASES if release in known]
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
    PAGE.write_text(page(rows))


if __name__ == "__main__":
    main()
