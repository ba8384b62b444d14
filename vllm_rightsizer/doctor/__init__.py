"""`vllm-rightsizer doctor`: what is wrong with an installation, seen from outside, and the command that mends it."""
