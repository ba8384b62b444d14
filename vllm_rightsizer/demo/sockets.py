"""Where the processes of one vLLM meet: by default in /tmp, and there the sockets of those that were killed stay."""

from __future__ import annotations

import tempfile

ENV_SOCKETS = "VLLM_RPC_BASE_PATH"
"""vLLM's own variable for that folder."""


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """An empty folder, which goes with all that is in it at the end of the block, or by `cleanup`.

    Its path is short: that of a socket has 107 characters at most, and the names that vLLM gives them have 36.
    """
    return tempfile.TemporaryDirectory(prefix="vllm-", dir="/tmp", ignore_cleanup_errors=True)
