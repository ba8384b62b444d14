"""A real Kubernetes on one machine, without containers: what tests and benchmarks run against."""
