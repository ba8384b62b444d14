module vllm-rightsizer.io/ci/keda

go 1.26.0

// Only files of it are used: nothing is built.
require github.com/kedacore/keda/v2 v2.21.0
