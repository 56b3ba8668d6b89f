package config

import (
	_ "embed" // default.yaml

	"mirrord/protocol/ide"
)

//go:embed default.yaml
var defaultFile string

// Default is a file to begin with: it says what holds without it. It is YAML,
// which has comments.
func Default() ide.ConfigDefaultResult {
	return ide.ConfigDefaultResult{Name: "mirrord.yaml", Text: defaultFile}
}
