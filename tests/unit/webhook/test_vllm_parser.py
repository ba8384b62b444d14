"""vLLM's own parser ends with our values, whatever the form."""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from webhook_cases import FORMS, KV_BYTES, UTILIZATION, Form

from webhook.argv import Arguments, rewrite, sizing_flags

pytestmark = pytest.mark.engine

# Kubernetes puts these in before vLLM sees them.
_REFERENCES = {"$(UTILIZATION)": "0.9", "$(MODEL_ID)": "org/model"}


@cache
def _parser() -> Any:
    pytest.importorskip("vllm")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def _expanded(token: str) -> str:
    for reference, value in _REFERENCES.items():
        token = token.replace(reference, value)
    return token


@pytest.mark.parametrize("form", [form for form in FORMS if isinstance(form.becomes, list)], ids=lambda form: form.name)
def test_form_ends_with_our_values(form: Form) -> None:
    assert isinstance(form.becomes, list)
    parsed = _parser().parse_args([_expanded(token) for token in form.becomes[form.vllm_from :]])
    assert parsed.gpu_memory_utilization == float(UTILIZATION)
    assert parsed.kv_cache_memory_bytes == KV_BYTES


_options = st.sampled_from(
    [
        ["--port", "8001"],
        ["--max-model-len=4096"],
        ["--max_num_seqs", "8"],
        ["--served-model-name", "a", "b"],
        ["--api-key", "x"],
        ["--enforce-eager"],
        ["--hf-token"],
        ["--gpu-memory-utilization", "0.5"],
        ["--gpu_memory_utilization=0.7"],
        ["--gpu", "0.3"],
        ["--kv-cache-memory-bytes", "1G"],
        ["--kv-cache-mem=2M"],
        ["--lora-modules", "a=/b"],
        ["--override-generation-config.temperature", "0.5"],
        ["-O3"],
        ["-tp", "2"],
        ["--cudagraph-capture-sizes", "1", "2"],
    ]
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(options=st.lists(_options, max_size=6), model_first=st.booleans(), terminated=st.booleans())
def test_only_the_two_values_differ(options: list[list[str]], model_first: bool, terminated: bool) -> None:
    flat = [token for option in options for token in option]
    if terminated:
        tokens = [*flat, "--", "org/model"]
    elif model_first:
        tokens = ["org/model", *flat]
    else:
        tokens = [*flat, "--model=org/model"]
    try:
        before = _values(tokens)
    except SystemExit:
        # vLLM refuses what the author wrote; whatever we append, it goes on doing so.
        assume(False)
    rewritten = rewrite(Arguments((), tuple(tokens)), 0, sizing_flags(KV_BYTES, UTILIZATION))
    after = _values(rewritten.args)
    expected = {**before, "gpu_memory_utilization": float(UTILIZATION), "kv_cache_memory_bytes": KV_BYTES}
    assert after == expected


def _values(tokens: Any) -> dict[str, Any]:
    parsed: argparse.Namespace = _parser().parse_args(list(tokens))
    return {name: str(value) if name not in _SIZES else value for name, value in vars(parsed).items()}


_SIZES = ("gpu_memory_utilization", "kv_cache_memory_bytes")
