"""Whatever comes over HTTP to the webhook that the API server calls; `python -m bench.fuzz` sends much more."""

from __future__ import annotations

from bench.fuzz_http import client_of, fuzz_http
from bench.lab.webhook import Webhook

REQUESTS = 80


def test_only_what_is_no_review_is_refused(webhook: Webhook) -> None:
    with client_of(f"https://{webhook.address}:{webhook.port}", webhook.published().decode()) as client:
        found = fuzz_http(client, REQUESTS, number=2026)
    assert found.faults == []
    # All four kinds were sent, and both answers came.
    assert found.requests >= REQUESTS * 3 // 4
    assert min(found.statuses[200], found.statuses[400]) > REQUESTS / 10
    assert webhook.ready()
