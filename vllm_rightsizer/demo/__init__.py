"""The whole loop on one machine: a real vLLM, the real webhook and recommender, and a small stand-in for Kubernetes."""
