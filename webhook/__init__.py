"""The admission webhook: it starts the next vLLM pod with what was recommended."""
