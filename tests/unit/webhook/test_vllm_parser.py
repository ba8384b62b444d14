"""vLLM's own parser ends with our values, whatever the form."""

from __future__ import annotations

import argparse
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from webhook_cases import KV_BYTES, UTILIZATION, Form
from webhook_wild_forms import ALL_FORMS

from webhook.argv import Arguments, rewrite, sizing_flags
from webhook.misspellings import misspelt

pytestmark = pytest.mark.engine

# Kubernetes puts these in before vLLM sees them.
_REFERENCES = {"$(UTILIZATION)": "0.9", "$(MODEL_ID)": "org/model"}


@cache
def _parser() -> Any:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser())


def _expanded(token: str) -> str:
    for reference, value in _REFERENCES.items():
        token = token.replace(reference, value)
    return token


@pytest.mark.parametrize(
    "form", [form for form in ALL_FORMS if isinstance(form.becomes, list)], ids=lambda form: form.name
)
def test_form_ends_with_our_values(form: Form) -> None:
    assert isinstance(form.becomes, list)
    parsed = _parser().parse_args([_expanded(token) for token in form.becomes[form.vllm_from :]])
    assert parsed.gpu_memory_utilization == float(UTILIZATION)
    assert parsed.kv_cache_memory_bytes == KV_BYTES


@cache
def _options() -> list[tuple[str, ...]]:
    """Every option of vLLM's parser with a value that it takes alone, in the spellings that it takes."""
    accepted: list[tuple[str, ...]] = [("--gpu", "0.3"), ("--kv-cache-memory-bytes", "1G"), ("--kv-cache-mem=2M",)]
    for action in _parser()._actions:
        for option in action.option_strings:
            if option in ("-h", "--help", "--model", "--config") or not _is_taken(option, action, accepted):
                continue
    return accepted


def _is_taken(option: str, action: argparse.Action, accepted: list[tuple[str, ...]]) -> bool:
    if action.nargs == 0:
        values: list[str | None] = [None]
    else:
        values = [str(choice) for choice in action.choices or ()][:2] or ["1", "0.5", "auto", "a=/b", '{"a": 1}']
    for value in values:
        tokens = (option,) if value is None else (option, value)
        try:
            _values(["--model=org/model", *tokens])
        except (SystemExit, ValueError):
            continue
        accepted.append(tokens)
        if option.startswith("--"):
            accepted.append((option.replace("-", "_").replace("__", "--", 1), *tokens[1:]))
            if value is not None:
                accepted.append((f"{option}={value}",))
                # An abbreviation; where it is ambiguous, the parser refuses it and the list is not tried.
                accepted.append((option[:-2], value))
        return True
    return False


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data(), place=st.sampled_from(["first", "last", "option", "terminated"]), split=st.integers(0, 4))
def test_only_the_two_values_differ(data: st.DataObject, place: str, split: int) -> None:
    options = data.draw(st.lists(st.sampled_from(_options()), max_size=6))
    flat = [token for option in options for token in option]
    tokens = {
        "first": ["org/model", *flat],
        "last": [*flat, "org/model"],
        "option": [*flat, "--model=org/model"],
        "terminated": [*flat, "--", "org/model"],
    }[place]
    try:
        before = _values(tokens)
    except (SystemExit, ValueError):
        # vLLM refuses what the author wrote; whatever we append, it goes on doing so.
        assume(False)
    wanted = sizing_flags(KV_BYTES, UTILIZATION)
    once = rewrite(Arguments(tuple(tokens[:split]), tuple(tokens[split:])), 0, wanted)
    expected = {**before, "gpu_memory_utilization": float(UTILIZATION), "kv_cache_memory_bytes": KV_BYTES}
    assert _values(once.vector) == expected
    assert rewrite(once, 0, wanted) == once


def test_no_option_of_vllms_counts_as_misspelt() -> None:
    options = [option for action in _parser()._actions for option in action.option_strings]
    assert len(options) > 200
    assert misspelt(options) == []
    assert misspelt([option.replace("-", "_").replace("__", "--", 1) for option in options]) == []


def _values(tokens: Any) -> dict[str, Any]:
    parsed: argparse.Namespace = _parser().parse_args(list(tokens))
    return {name: str(value) if name not in _SIZES else value for name, value in vars(parsed).items()}


_SIZES = ("gpu_memory_utilization", "kv_cache_memory_bytes")
