"""A whole vLLM in one process: it answers the same prompts again and again, each time with another fault in the plugin.

Run by `test_harm_engines`, as `python answers.py MODEL FAULT...`; prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any
from unittest.mock import patch

BLOCK_TOKENS, BLOCKS, MAX_MODEL_LEN = 32, 56, 1024
BLOCK_BYTES = 131_072
PATIENCE_SECONDS = 120.0


class UnshowableError(RuntimeError):
    """Cannot even be put into a log."""

    def __repr__(self) -> str:
        raise ValueError("no text")

    __str__ = __repr__


def failing(*_: Any, **__: Any) -> Any:
    raise UnshowableError


def odd(*_: Any, **__: Any) -> Any:
    return "not what was asked for"


@contextlib.contextmanager
def broken(target: str, by: Any = failing) -> Iterator[None]:
    with patch(target, by):
        yield


@contextlib.contextmanager
def bare_pool() -> Iterator[None]:
    """As in a release of which nothing is where it was."""
    with patch("vllm_plugin.pool.PoolTracker.active_and_free", lambda self: self.no_such_attribute):
        yield


@contextlib.contextmanager
def slow_pages() -> Iterator[None]:
    """A collector that takes its time, and clients that ask for it all the while."""
    from vllm_plugin.pool import PoolTracker

    report = PoolTracker.report

    def slowly(self: Any) -> Any:
        time.sleep(0.3)
        return report(self)

    with patch.object(PoolTracker, "report", slowly):
        clients = [ask() for _ in range(4)]
        yield
        for client in clients:
            client.close()


@contextlib.contextmanager
def silent_clients() -> Iterator[None]:
    """More connections than are served, and nothing is ever said on them."""
    clients = [socket.create_connection(("127.0.0.1", port()), timeout=PATIENCE_SECONDS) for _ in range(40)]
    yield
    for client in clients:
        client.close()


@contextlib.contextmanager
def folder_gone() -> Iterator[None]:
    """Somebody removes the folder of the snapshots; it is made anew."""
    take_away(snapshots())
    yield
    wait_until(is_written)


@contextlib.contextmanager
def folder_replaced() -> Iterator[None]:
    """A file where the folder was: nothing can be written there, whoever writes."""
    from vllm_plugin.guard import hook

    before = hook("snapshots").errors
    made = False
    while not made:
        take_away(snapshots())
        # Another process may have made it anew meanwhile.
        with contextlib.suppress(FileExistsError):
            snapshots().touch(exist_ok=False)
            made = True
    wait_until(lambda: hook("snapshots").errors > before)
    yield
    snapshots().unlink()
    # What fails after this is the next fault's.
    wait_until(is_written)


def snapshots() -> Path:
    return Path(os.environ["VLLM_RIGHTSIZER_DIR"])


def take_away(folder: Path) -> None:
    """In one step: while files are removed one by one others are written."""
    gone = folder.with_name(f"{folder.name}-{time.monotonic_ns()}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def is_written() -> bool:
    """Whether this process has a snapshot."""
    return bool(list(snapshots().glob(f"*/{os.getpid()}-*.json")))


def wait_until(holds: Callable[[], bool]) -> None:
    """What the plugin does once a second."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)


@contextlib.contextmanager
def forks() -> Iterator[None]:
    """Children come and go while the exporter's threads write, serve and hold their locks."""
    children = []
    client = ask()
    for _ in range(20):
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                from vllm_plugin import process
                from vllm_plugin.guard import hook, warn

                signal.alarm(200)
                hook("lookup").run(failing)
                warn("from a child")
                os._exit(len(process.current().pools))
            os._exit(99)
        children.append(child)
        time.sleep(0.05)
    yield
    client.close()
    ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert ended == [0] * len(children), ended


def port() -> int:
    return int(os.environ["VLLM_RIGHTSIZER_PORT"])


def ask() -> socket.socket:
    """A request for the page whose answer nobody reads yet."""
    client = socket.create_connection(("127.0.0.1", port()), timeout=PATIENCE_SECONDS)
    client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    return client


FAULTS: dict[str, Any] = {
    "sound": contextlib.nullcontext,
    "lookups fail": lambda: broken("vllm_plugin.pool.PoolTracker.sought"),
    "admissions fail": lambda: broken("vllm_plugin.pool.PoolTracker.admitted"),
    "lookups are odd": lambda: broken("vllm_plugin.pool.PoolTracker.sought", odd),
    "releases fail": lambda: broken("vllm_plugin.pool.PoolTracker.freed"),
    "releases are odd": lambda: broken("vllm_plugin.pool.PoolTracker.before_free", odd),
    "hand-outs fail": lambda: broken("vllm_plugin.pool.PoolTracker.handed_out"),
    "resets fail": lambda: broken("vllm_plugin.pool.PoolTracker.reset"),
    "the estimator fails": lambda: broken("vllm_plugin.estimator.ReuseEstimator.lookup"),
    "attributes are missing": bare_pool,
    "reports fail": lambda: broken("vllm_plugin.pool.PoolTracker.report"),
    "reports are odd": lambda: broken("vllm_plugin.process._reports", odd),
    "pages fail": lambda: broken("vllm_plugin.exporter.families"),
    "pages are slow": slow_pages,
    "clients are silent": silent_clients,
    "the folder is removed": folder_gone,
    "the folder is a file": folder_replaced,
    "the process forks": forks,
}


def prompts() -> list[dict[str, Any]]:
    """Shared beginnings and own endings: hits, evictions, and requests that have to wait for blocks."""
    random_ = random.Random(0)

    def tokens(count: int) -> list[int]:
        return [random_.randrange(3, 2000) for _ in range(count)]

    shared = [tokens(random_.randrange(100, 400)) for _ in range(5)]
    return [{"prompt_token_ids": random_.choice(shared) + tokens(random_.randrange(5, 150))} for _ in range(24)]


def answers(llm: Any) -> Any:
    """Tokens, what they weigh in the model's eyes to the last bit, and what of each prompt was in the cache."""
    from vllm import SamplingParams

    parameters = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True, logprobs=0)
    outputs = llm.generate(prompts(), parameters, use_tqdm=False)
    return [
        (list(one.outputs[0].token_ids), float(one.outputs[0].cumulative_logprob).hex(), one.num_cached_tokens)
        for one in outputs
    ]


def errors_since_last() -> dict[str, int]:
    """What the hooks of this process have counted; each is as new afterwards, ready for the next fault."""
    guard = sys.modules.get("vllm_plugin.guard")
    if guard is None:
        return {}
    counted = {name: hook.errors for name, hook in guard.hooks.items() if hook.errors}
    for hook in guard.hooks.values():
        hook.active, hook.errors, hook._strain = True, 0, 0.0
    return counted


def page() -> str:
    with contextlib.suppress(OSError, KeyError, HTTPException):
        url = f"http://127.0.0.1:{port()}/metrics"
        return str(urllib.request.urlopen(url, timeout=PATIENCE_SECONDS).read().decode())
    return ""


def after_a_kill(llm: Any) -> str:
    """The worker is killed: what vLLM makes of it, once it knows."""
    import multiprocessing

    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
    for thread in threading.enumerate():
        if thread.name == "MultiprocWorkerMonitor":
            thread.join(PATIENCE_SECONDS)
    try:
        answers(llm)
    except Exception as error:
        return type(error).__name__
    return "nothing"


def main() -> None:
    from vllm import LLM

    llm = LLM(
        sys.argv[1],
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        block_size=BLOCK_TOKENS,
        max_model_len=MAX_MODEL_LEN,
        kv_cache_memory_bytes=BLOCKS * BLOCK_BYTES,
        seed=1,
        distributed_executor_backend="mp",
    )
    at_start = errors_since_last()
    found = []
    for name in sys.argv[2:]:
        with FAULTS[name]():
            run = {"fault": name, "answers": answers(llm), "reset": llm.reset_prefix_cache(), "page": page()}
        found.append({**run, "errors": errors_since_last()})
    if page():
        # The worker begins anew as well.
        wait_until(lambda: "model_weights_bytes" in page())
    before = page()
    killed = after_a_kill(llm)
    # The system lets go of what a process held a moment after its end.
    wait_until(lambda: "model_weights_bytes" not in page())
    print("RESULT" + json.dumps({"start": at_start, "runs": found, "killed": killed, "pages": [before, page()]}))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
