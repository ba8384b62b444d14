//go:build programs

// Package programs names the programs that are built from these modules; `go mod tidy` keeps what they need.
package programs

import _ "github.com/rhysd/actionlint/cmd/actionlint"
