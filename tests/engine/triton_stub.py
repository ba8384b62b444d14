"""What Triton's vLLM backend does in its Python stub: a library's vLLM in a thread's event loop, without its metrics.

Run by `test_triton` as `python triton_stub.py FOLDER START_METHOD`; FOLDER holds Triton's `model.json`. Prints one JSON
object: what was generated, what its own logger of statistics got, and the plugin's page.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pages import PATIENCE_SECONDS, settled_page

ENDS = (110, 140)
"""Of the prompts, which begin at 10."""


class Backend:
    """One model, as Triton's `TritonPythonModel` holds it."""

    def __init__(self, folder: Path, start_method: str) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs

        self.arguments = AsyncEngineArgs(**json.loads((folder / "model.json").read_text()))
        self.start_method = start_method
        self.prompt_tokens = 0
        self.ready = threading.Event()
        self.engine: Any = None
        self.thread = threading.Thread(target=asyncio.run, args=(self._run(),))
        self.thread.start()
        self.ready.wait()

    async def _run(self) -> None:
        try:
            await self._serve()
        finally:
            self.ready.set()

    async def _serve(self) -> None:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        config = self.arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
        # The CPU platform asks for spawn just now; on a GPU a library's engine is forked.
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = self.start_method
        engine = AsyncLLM.from_vllm_config(config, stat_loggers=[self._logger()])
        try:
            self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
            self.engine = engine
            self.ready.set()
            await self.stopped.wait()
        finally:
            engine.shutdown()

    def _logger(self) -> Any:
        from vllm.v1.metrics.loggers import StatLoggerBase

        backend = self

        class Logger(StatLoggerBase):
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
                pass

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                del scheduler_stats
                if iteration_stats is not None:
                    backend.prompt_tokens += iteration_stats.num_prompt_tokens

            def log_engine_initialized(self) -> None:
                pass

        return Logger

    def generate(self, tokens: list[int]) -> list[int]:
        return asyncio.run_coroutine_threadsafe(self._generate(tokens), self.loop).result()

    async def _generate(self, tokens: list[int]) -> list[int]:
        from vllm import SamplingParams

        parameters = SamplingParams(max_tokens=4, ignore_eos=True, temperature=0)
        last: Any = None
        async for output in self.engine.generate({"prompt_token_ids": tokens}, parameters, str(len(tokens))):
            last = output
        return list(last.outputs[0].token_ids)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.stopped.set)
        self.thread.join()


def main(folder: Path, start_method: str) -> None:
    backend = Backend(folder, start_method)
    prompts = [list(range(10, end)) for end in ENDS]
    answers = [backend.generate(prompt) for prompt in prompts]
    page = settled_page(ranks=1, requests=len(prompts))
    # Its statistics are told after the answers.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while backend.prompt_tokens < sum(map(len, prompts)) and time.monotonic() < deadline:
        time.sleep(0.1)
    children = [type(child).__name__ for child in multiprocessing.active_children()]
    found = {"answers": answers, "prompt_tokens": backend.prompt_tokens, "page": page, "children": children}
    print("RESULT" + json.dumps(found), flush=True)
    backend.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
