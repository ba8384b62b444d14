"""Whatever a long-running part of ours writes to standard error is one JSON object a line."""

from __future__ import annotations

import json
import subprocess
import sys

NOISE = """
import asyncio, gc, logging, threading, warnings
from recommender.api.logs import log_to_stderr

log_to_stderr()
logging.getLogger("uvicorn.error").info("Started %s", "server", extra={"color_message": "!"})
logging.getLogger("aiohttp.client").error("of two\\nlines")
logging.getLogger("httpx").info("a line a request")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("recommender.rounds").exception("a round failed", extra={"uid": "u-1"})
warnings.warn("old")
thread = threading.Thread(target=lambda: {}["missing"], name="worker")
thread.start()
thread.join()

class Odder:
    def __del__(self):
        raise ValueError("in a destructor")
Odder()

async def forgotten():
    raise OSError("nobody asked")

async def main():
    task = asyncio.create_task(forgotten())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()

asyncio.run(main())
raise RuntimeError("at the end")
"""


def test_every_line_is_an_object() -> None:
    done = subprocess.run([sys.executable, "-c", NOISE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    found = {line["logger"]: line for line in lines if line["logger"] != "recommender.api.logs"}
    assert found.keys() == {"uvicorn.error", "aiohttp.client", "recommender.rounds", "py.warnings", "asyncio"}
    assert found["uvicorn.error"]["message"] == "Started server"
    assert "color_message" not in found["uvicorn.error"]
    assert found["aiohttp.client"]["message"] == "of two\nlines"
    assert found["recommender.rounds"]["uid"] == "u-1"
    assert "ZeroDivisionError" in found["recommender.rounds"]["exception"]
    assert "UserWarning: old" in found["py.warnings"]["message"]
    assert "never retrieved" in found["asyncio"]["message"]
    ours = [line for line in lines if line["logger"] == "recommender.api.logs"]
    assert [line["level"] for line in ours] == ["error", "error", "critical"]
    assert "ends the thread worker" in ours[0]["message"]
    assert "ValueError: in a destructor" in ours[1]["exception"]
    assert "RuntimeError: at the end" in ours[2]["exception"]
