"""A KV connector for vLLM's own scheduler: brings tokens from elsewhere, sends blocks after their request's end."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata

EXTERNAL_TOKENS = 64


class Carrier(KVConnectorBase_V1):
    """The scheduler's half; there is no worker."""

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """So many tokens beyond vLLM's own hits lie elsewhere, and are loaded with the next step."""
        missing = request.num_tokens - num_computed_tokens - 1
        return min(EXTERNAL_TOKENS, max(missing, 0)), False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Nothing is loaded here."""

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        """For the worker."""
        del scheduler_output
        return KVConnectorMetadata()

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """The blocks are still to be sent."""
        del request, block_ids
        return True, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Worker's half."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Worker's half."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Worker's half."""

    def wait_for_save(self) -> None:
        """Worker's half."""
