package config

import (
	_ "embed" // default.json

	"mirrord/protocol/ide"
)

//go:embed default.json
var defaultFile string

// Default is a file to begin with: it says what holds without it. JSON has no
// comments, so that each line is a setting.
func Default() ide.ConfigDefaultResult {
	return ide.ConfigDefaultResult{Name: "mirrord.json", Text: defaultFile}
}
