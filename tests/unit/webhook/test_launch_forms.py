"""Every way to start vLLM comes out right, or untouched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webhook_cases import (
    ENVIRONMENT,
    FLAGS,
    KV_BYTES,
    UNTOUCHED,
    UTILIZATION,
    Form,
    environment,
    knowing,
    patched,
    pod,
    review,
    vector,
)
from webhook_wild_forms import ALL_FORMS

from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_ORIGINAL_ARGS
from webhook.admission import admit
from webhook.argv import Arguments, explicit_kv_option, rewrite, without
from webhook.launches import launch_of
from webhook.settings import InjectionSettings
from webhook.shells import read_script

SETTINGS = InjectionSettings()


@pytest.mark.parametrize("form", ALL_FORMS, ids=lambda form: form.name)
def test_form(form: Form) -> None:
    before = pod(form.container())
    answer = admit(review(before), knowing(before), SETTINGS)
    after = patched(before, answer)
    container = after["spec"]["containers"][0]
    if form.becomes == UNTOUCHED:
        assert after == before
        assert answer["response"]["auditAnnotations"]["outcome"] == "not-vllm"
        return
    assert answer["response"]["auditAnnotations"]["outcome"] == "applied"
    if form.becomes == ENVIRONMENT:
        assert vector(container) == vector(before["spec"]["containers"][0])
        assert environment(container)["VLLM_RIGHTSIZER_KV_BYTES"] == str(KV_BYTES)
        assert environment(container)["VLLM_RIGHTSIZER_GPU_MEMORY_UTILIZATION"] == UTILIZATION
    else:
        assert vector(container) == form.becomes
        assert "VLLM_RIGHTSIZER_KV_BYTES" not in environment(container)
        originals = json.loads(after["metadata"]["annotations"][ANNOTATION_ORIGINAL_ARGS])
        assert originals == {"main": vector(before["spec"]["containers"][0])}
        assert json.loads(after["metadata"]["annotations"][ANNOTATION_APPLIED])["main"][-2:] == FLAGS
        # The image's own CMD must never come into play, or be lost, by what we add.
        assert container.get("command") or not form.command


@pytest.mark.parametrize(
    "form", [form for form in ALL_FORMS if isinstance(form.becomes, list)], ids=lambda form: form.name
)
def test_start_of_vllms_arguments(form: Form) -> None:
    launch = launch_of([*(form.command or ()), *(form.args or ())], dict(form.env))
    if launch.start is not None and not launch.behind_separator:
        assert launch.start == form.vllm_from


@pytest.mark.parametrize(
    ("tokens", "option"),
    [
        (["--kv-cache-memory-bytes", "1G"], "--kv-cache-memory-bytes"),
        (["--kv_cache_memory_bytes=1"], "--kv-cache-memory-bytes"),
        (["--kv-cache-memory=1"], "--kv-cache-memory-bytes"),
        (["--num-gpu-blocks-override=10"], "--num-gpu-blocks-override"),
        (["--num_gpu", "10"], "--num-gpu-blocks-override"),
        (["sh", "-c", "vllm serve m --kv-cache-memory-bytes 1G"], "--kv-cache-memory-bytes"),
        (["--kv-cache-dtype=fp8", "--kv-cache-metrics", "--num-lookahead-slots=1", "--numa-bind"], None),
        (["m--num-gpu-blocks-override"], None),
    ],
)
def test_what_the_user_fixed(tokens: list[str], option: str | None) -> None:
    assert explicit_kv_option(tokens) == option


_tokens = st.lists(
    st.one_of(st.sampled_from(["--", "--port=1", "-x", "m", *FLAGS, "--gpu=0.5", "a b", ""]), st.text(max_size=5)),
    max_size=6,
)


@given(command=_tokens, args=_tokens, start=st.integers(0, 8), flags=st.sampled_from([FLAGS, FLAGS[:1], FLAGS[1:]]))
def test_rewriting_twice_is_rewriting_once(command: list[str], args: list[str], start: int, flags: list[str]) -> None:
    before = Arguments(tuple(command), tuple(args))
    start = min(start, len(before.vector))
    once = rewrite(before, start, flags)
    assert rewrite(once, start, flags) == once
    # Nothing of the author's is lost or moved.
    assert len(once.vector) in (len(before.vector), len(before.vector) + len(flags))
    other = ["--kv-cache-memory-bytes=1"]
    if once != before:
        assert rewrite(once, start, other, previous=flags) == rewrite(before, start, other)
        assert rewrite(once, start, (), previous=flags) == before


def test_without_takes_the_last_occurrence() -> None:
    assert without(["--a=1", "b", "--a=1"], ["--a=1"]) == ["--a=1", "b"]


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("a b; c && d || e | f & g\nh", [["a", "b"], ["c"], ["d"], ["e"], ["f"], ["g"], ["h"]]),
        ('a \'b c\' "d \\"e\\" $F" g\\ h', [["a", "b c", 'd "e" $F', "g h"]]),
        ("a \\\n  b # c; d\ne", [["a", "b"], ["e"]]),
        ("if a; then b; else c; fi", [["a"], ["b"], ["c"]]),
        ("A=1 B='2 3' exec c $(d e) ${F:-g h}", [["c", "$(d e)", "${F:-g h}"]]),
        ("a > b 2>&1", [["a", "b", "2"], ["1"]]),
        ("a 'unclosed", [["a", "unclosed"]]),
        ("a $(unclosed", [["a", "$(unclosed"]]),
        ("", []),
        ("\\", []),
    ],
)
def test_simple_commands(script: str, commands: list[list[str]]) -> None:
    assert read_script(script).commands == commands


@given(st.text(alphabet="ab;|&()'\"\\$#{}\n `<>=", max_size=40))
def test_any_script_is_read(script: str) -> None:
    assert all(read_script(script).commands)
    launch_of(["sh", "-c", script])


@pytest.mark.parametrize(
    ("vector", "variables"),
    [
        (["sh", "-c", "$A"], {"A": "$A;" * 3000}),
        (["sh", "-c", "$A;$B"], {"A": "$B x;" * 3000, "B": "$A x;" * 3000}),
        (["sh", "-c", "sh -c '$A';" * 3000], {"A": "b;" * 10000}),
        (["sh", "-c", '"$@";' * 9000, "x", "sh", "-c", "a b;" * 9000], {}),
        (["sh", "-c", "eval " * 20000 + "x"], {}),
        (["env", *["python", "-c", "x"] * 50000], {}),
        (["vllm", "serve", *["$(A)" * 100] * 5000], {"A": "x" * 100_000}),
    ],
    ids=["itself", "each other", "nested", "parameters", "eval", "wrapper", "references"],
)
def test_nothing_costs_more_than_its_length(vector: list[str], variables: dict[str, str]) -> None:
    """Each of these would run for hours, or fill the memory, if it were followed to its end."""
    env = [{"name": name, "value": value} for name, value in variables.items()]
    before = pod({"name": "main", "image": "corp/thing:1", "command": vector, "env": env})
    assert admit(review(before), knowing(before), SETTINGS)["response"]["allowed"] is True
