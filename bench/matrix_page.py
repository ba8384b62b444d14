"""`docs/compatibility.md`, from what `bench.matrix` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """\
# vLLM releases

vllm-rightsizer's plugin reads vLLM's own objects, and those differ from release to release. `make matrix` builds an
environment for each release, installs the plugin's wheel beside it, and runs the same tests in each
(`tests/conformance`). This page is what it found; `make matrix RELEASES="0.13.0 0.32.0"` renews some of its lines.

| vLLM | engines | tried with | tests | hooks active | on |
|---|---|---|---|---|---|
"""

_TAIL = """
"A model" is a real engine on the CPU, a tiny Llama in it, with the plugin loaded from its entry point in every process:
pool and block bytes are those of vLLM's own tensors, weights are those of the model's own tensors as its loader leaves
them and what its configuration makes of them, hits are those of vLLM's own counters, and the override set the sizes.
"Its scheduler" is the release's real scheduler with its block pool (V1) or block manager (V0), driven step by step
while the tests make up the tokens: active and reusable blocks at every step, hits, preemptions, refused admissions, the
curve held against runs at other pool sizes, resets, and the prefix cache switched off.

Lines without a model:

- 0.7, 0.8.2 and 0.33 have no wheel for the CPU;
- the kernels of 0.8.5 to 0.10 want a newer libstdc++ (GLIBCXX_3.4.32) than Debian 12 has. Where there is one,
  `make matrix` runs a model, too; that has not been tried;
- any other was made without one.

0.18 starts on the CPU only where LD_PRELOAD names libtcmalloc and libiomp, for speed; the tests name them.

What differs between the releases, and how the plugin tells it, stands in `vllm_plugin/releases.py`. A release that
changes something else loses that hook alone: `vllm_rightsizer_hooks_active` is 0 for it, vLLM's log says so once, and
the rest goes on.

Not measured:

- on V0, requests whose sequences were swapped out, and reuse distances with pipeline parallelism;
- with KV cache groups that are neither full attention nor a sliding window (Mamba beside attention, any release), whose
  blocks hold different numbers of tokens, or that lie in the host's memory in part, reuse distances;
- on 0.7.1 and 0.7.2 on the CPU, weights before a loader packs them.
"""


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The whole page. `rows`: `Result`s as plain values, oldest release first."""
    return _HEAD + "".join(f"{_line(row)}\n" for row in rows) + _TAIL


def _line(row: Mapping[str, Any]) -> str:
    hooks: Mapping[str, Sequence[str]] = row["hooks"]
    engines = [name for name in hooks if name != "model"]
    tried = [*(["a model"] if "model" in hooks else []), *(["its scheduler"] if engines else [])]
    if row["error"]:
        outcome = "not run"
    elif row["failed"]:
        outcome = f"{row['passed']} passed, failed: {', '.join(row['failed'])}"
    else:
        outcome = f"{row['passed']} passed"
    active = sorted({name for names in hooks.values() for name in names})
    cells = [row["release"], ", ".join(engines), ", ".join(tried), outcome, " ".join(active), row["date"]]
    return "| " + " | ".join(cells) + " |"
