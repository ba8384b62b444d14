"""The plugin's page, for scripts that run in a vLLM's own process: standard library only."""

from __future__ import annotations

import os
import time
import urllib.request
from http.client import HTTPException

PATIENCE_SECONDS = 300.0


def settled_page(ranks: int = 1, requests: int = 0) -> str:
    """The page, once so many ranks and requests stand on it; what there is, where that takes too long.

    Each process writes what it knows once a second, and another one may begin to serve the page meanwhile.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        text = page()
        if is_settled(text, ranks, requests) or time.monotonic() > deadline:
            return text
        time.sleep(0.2)


def is_settled(text: str, ranks: int, requests: int) -> bool:
    """Whether so many ranks and requests, those of all engines, stand on the page."""
    counted = [line.split()[-1] for line in text.splitlines() if line.startswith("vllm_rightsizer_requests_total{")]
    seen = sum(line.startswith("vllm_rightsizer_model_weights_bytes{") for line in text.splitlines())
    return seen == ranks and bool(counted) and sum(map(float, counted)) >= requests


def page() -> str:
    """What stands there now; nothing where nobody serves it."""
    try:
        address = f"http://127.0.0.1:{os.environ['VLLM_RIGHTSIZER_PORT']}/metrics"
        with urllib.request.urlopen(address, timeout=60) as answer:
            return str(answer.read().decode())
    except (OSError, HTTPException):
        return ""
