package config

import (
	"time"

	"github.com/dlclark/regexp2"

	"mirrord/protocol/pattern"
)

func compile(text string) (*regexp2.Regexp, error) {
	return pattern.Compile(text, false, time.Second)
}

// expand fills what re captured in s into template ($1, ${name}).
func expand(re *regexp2.Regexp, s, template string) (string, bool, error) {
	m, err := re.FindStringMatch(s)
	if m == nil || err != nil {
		return "", false, err
	}
	whole, err := re.Replace(s, template, -1, 1)
	if err != nil {
		return "", false, err
	}
	// Replace keeps what stands around the match; only the match is wanted.
	around, out := []rune(s), []rune(whole)
	after := len(around) - m.Index - m.Length
	return string(out[m.Index : len(out)-after]), true, nil
}
