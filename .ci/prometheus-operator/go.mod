module vllm-rightsizer.io/ci/prometheus-operator

go 1.26.0

// Only files of it are used: nothing is built.
require github.com/prometheus-operator/prometheus-operator v0.85.0
