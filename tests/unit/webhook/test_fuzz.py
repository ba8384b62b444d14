"""Mutated and malformed reviews through the whole HTTP side; `python -m bench.fuzz` sends many more."""

from __future__ import annotations

import logging
import random

import pytest
from webhook_cases import pod
from webhook_wild_forms import ALL_FORMS

from bench.fuzz import example_pods, fuzz
from bench.mutations import mutated_review

REVIEWS = 300


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="webhook")


async def test_no_review_is_refused_or_answered_wrongly() -> None:
    pods = [*example_pods(), *(pod(form.container()) for form in ALL_FORMS)]
    found = await fuzz(pods, REVIEWS, seed=2026)
    assert found.faults == []
    assert found.reviews == REVIEWS
    # Enough of them went all the way.
    assert found.outcomes["applied"] > REVIEWS / 20
    assert found.patches > REVIEWS / 4
    assert {"injected", "dry-run", "refused", "error", "no review", "not-vllm"} <= found.outcomes.keys()


def test_the_same_seed_gives_the_same_reviews() -> None:
    review = {"kind": "AdmissionReview", "request": {"uid": "u", "object": example_pods()[0]}}
    first, second = (mutated_review(review, random.Random(5)) for _ in range(2))
    assert first == second
    assert first != mutated_review(review, random.Random(6))
    assert review["request"]["object"] == example_pods()[0]
