"""vllm-rightsizer's eyes inside vLLM: measures what a model needs of its GPU, and overrides vLLM's two sizes.

vLLM calls `register` in every process that it starts, also in short-lived ones that only inspect a model. So nothing
happens here but the preparation of hooks; threads, ports and files wait until an engine or a worker is really built.
"""

from __future__ import annotations

import os
import time


def register() -> None:
    """Entry point of the group `vllm.general_plugins`. Never raises: vLLM would die of it."""
    try:
        from vllm_plugin.names import ENV_DISABLED

        if os.environ.get(ENV_DISABLED, "").strip().lower() in ("", "0", "false", "no"):
            began = time.thread_time()
            from vllm_plugin.guard import hook
            from vllm_plugin.hooks import install

            earlier = hook("start").seconds
            install()
            # Not added: what was hooked at once has counted itself.
            hook("start").seconds = earlier + time.thread_time() - began
    except Exception:
        import logging

        logging.getLogger("vllm.rightsizer").warning("vllm-rightsizer is off in this process", exc_info=True)
