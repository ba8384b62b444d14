"""Real vLLM's scheduler and KV cache manager under made-up tokens, as the benchmarks use them too."""

from bench.engines import BLOCK_TOKENS, LAYERS, Engine, Prompt, quiet_environment, traffic

__all__ = ["BLOCK_TOKENS", "LAYERS", "Engine", "Prompt", "quiet_environment", "traffic"]
