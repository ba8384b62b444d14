"""The demo's load: what is in it, and that it is the same every time."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import replace

import pytest

from vllm_rightsizer.demo.load import call_of
from vllm_rightsizer.demo.model import BLOCK_TOKENS, MAX_MODEL_LEN, words
from vllm_rightsizer.demo.pattern import DEMO, Request, generate

SMALL = replace(DEMO, requests=600)
REQUESTS = generate(SMALL, seed=1)
LARGEST_POOL_TOKENS = 26 * (1 << 30) // 10 // 4096


def text_of(request: Request) -> str:
    return request.prompt or " ".join(f"<{role}> {content} </s>" for role, content in request.messages)


def test_the_seed_decides() -> None:
    assert generate(SMALL, seed=1) == REQUESTS
    assert generate(SMALL, seed=2) != REQUESTS


def test_all_kinds_are_there() -> None:
    kinds = Counter(request.kind for request in REQUESTS)
    assert min(kinds.values()) >= len(REQUESTS) / 8
    assert sum(kinds.values()) == SMALL.requests


def test_requests_fit_the_model() -> None:
    assert max(len(text_of(request).split()) for request in REQUESTS) < MAX_MODEL_LEN / 2


def test_the_load_looks_up_more_than_the_largest_pool_one_and_a_half_times() -> None:
    tokens = sum(len(text_of(request).split()) for request in generate(DEMO, seed=1))
    assert tokens >= 1.5 * LARGEST_POOL_TOKENS


def test_documents_are_shared_by_zipf() -> None:
    asked = [request.prompt.split() for request in REQUESTS if request.kind == "document"]
    popularity = Counter(" ".join(prompt[: SMALL.document_tokens]) for prompt in asked)
    assert 2 <= len(popularity) <= SMALL.documents
    (_, most), *_, (_, least) = popularity.most_common()
    assert most >= 3 * least
    questions = [" ".join(prompt[SMALL.document_tokens :]) for prompt in asked]
    assert len(set(questions)) == len(questions)


def test_one_offs_share_nothing() -> None:
    starts = [" ".join(request.prompt.split()[:BLOCK_TOKENS]) for request in REQUESTS if request.kind == "cold"]
    assert len(set(starts)) == len(starts)


def test_chats_go_on_after_long_pauses() -> None:
    last: dict[str, tuple[int, Request]] = {}
    pauses = []
    for position, request in enumerate(REQUESTS):
        if request.kind != "chat":
            continue
        chat = request.messages[0][1]
        if chat in last:
            before, earlier = last[chat]
            assert request.messages[: len(earlier.messages)] == earlier.messages
            assert [role for role, _ in request.messages] == ["user", "assistant"] * (len(request.messages) // 2) + [
                "user"
            ]
            pauses.append(position - before)
        last[chat] = (position, request)
    assert len(pauses) >= 100
    assert min(pauses) >= SMALL.pause_requests[0]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_right_size_lies_well_below_the_pool_and_far_above_what_is_in_use(seed: int) -> None:
    """A textbook LRU cache over the same requests: enough to choose a load, not to judge the estimator."""
    requests = generate(DEMO, seed)
    smallest_pool = (1 << 30) // 4096
    whole = lru_hit_rate(requests, smallest_pool)
    assert lru_hit_rate(requests, int(0.5 * smallest_pool)) > whole - 0.01
    assert lru_hit_rate(requests, int(0.25 * smallest_pool)) < whole - 0.05
    assert lru_hit_rate(requests, MAX_MODEL_LEN + 32) < whole - 0.3


def lru_hit_rate(requests: list[Request], tokens: int) -> float:
    cache: OrderedDict[int, None] = OrderedDict()
    hits = looked_up = 0
    for request in requests:
        prompt = text_of(request).split()
        chain, blocks = 0, []
        for start in range(0, len(prompt) - BLOCK_TOKENS, BLOCK_TOKENS):
            chain = hash((chain, *prompt[start : start + BLOCK_TOKENS]))
            blocks.append(chain)
        known = next((at for at, block in enumerate(blocks) if block not in cache), len(blocks))
        hits += known * BLOCK_TOKENS
        looked_up += len(prompt)
        for block in reversed(blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > tokens // BLOCK_TOKENS:
            cache.popitem(last=False)
    return hits / looked_up


def test_calls_have_a_fixed_short_output() -> None:
    path, body = call_of(Request("cold", prompt="a b"), "m")
    assert path == "/v1/completions"
    assert (body["prompt"], body["ignore_eos"]) == ("a b", True)
    path, chat = call_of(Request("chat", messages=(("user", "a"),)), "m")
    assert path == "/v1/chat/completions"
    assert chat["messages"] == [{"role": "user", "content": "a"}]
    assert body["max_tokens"] == chat["max_tokens"] <= 8


def test_no_word_begins_another() -> None:
    assert len(set(words())) == len(words())
    assert len({len(word) for word in words()}) == 1
